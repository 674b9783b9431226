"""The compression codecs of Kafka's batches: what decompresses each, and which are missing.

A batch is compressed as its producer likes, so a reader needs all four. aiokafka decompresses with cramjam,
kafka-python with a package for each codec.
"""

from __future__ import annotations

from streams.kafka.clients import KafkaError

CODECS = ("gzip", "snappy", "lz4", "zstd")
_AIOKAFKA = dict.fromkeys(CODECS[1:], "cramjam")
_KAFKA_PYTHON = {"snappy": "python-snappy", "lz4": "lz4", "zstd": "zstandard"}


class CodecError(KafkaError):
    """A package that decompresses one of Kafka's codecs is not installed."""


def missing_codecs() -> dict[str, str]:
    """By codec that some client cannot decompress, the package that is missing."""
    import aiokafka.codec
    import kafka.codec

    missing: dict[str, str] = {}
    for module, packages in ((kafka.codec, _KAFKA_PYTHON), (aiokafka.codec, _AIOKAFKA)):
        missing |= {codec: name for codec, name in packages.items() if not getattr(module, f"has_{codec}")()}
    return missing


def check_codecs() -> None:
    """Raise CodecError, naming the codecs and the packages, unless all four can be read."""
    if missing := missing_codecs():
        codecs = ", ".join(f"{codec} (package {package})" for codec, package in missing.items())
        raise CodecError(
            f"batches compressed with {codecs} could not be read; install the extra `interestream[kafka]`, or "
            f"`pip install {' '.join(sorted(set(missing.values())))}`"
        )
