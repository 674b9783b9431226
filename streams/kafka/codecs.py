"""The compression codecs of Kafka's batches: what decompresses each, and which are missing.

A batch is compressed as its producer likes, so a reader needs all four. aiokafka decompresses with cramjam,
kafka-python with a package for each codec.
"""

from __future__ import annotations

from importlib.util import find_spec

from streams.kafka.clients import KafkaError

CODECS = ("gzip", "snappy", "lz4", "zstd")
# by codec, what is imported and the packages that have it; gzip is Python's own
_MODULES = {
    "snappy": {"cramjam": "cramjam", "snappy": "python-snappy"},
    "lz4": {"cramjam": "cramjam", "lz4": "lz4"},
    "zstd": {"cramjam": "cramjam", "zstandard": "zstandard"},
}


class CodecError(KafkaError):
    """A package that decompresses one of Kafka's codecs is not installed."""


def missing_codecs() -> dict[str, list[str]]:
    """By codec that one of the clients cannot decompress, the packages that are missing. Imports none of them."""
    missing = {
        codec: [package for module, package in modules.items() if find_spec(module) is None]
        for codec, modules in _MODULES.items()
    }
    return {codec: packages for codec, packages in missing.items() if packages}


def check_codecs() -> None:
    """Raise CodecError, naming the codecs and the packages, unless all four can be read."""
    if missing := missing_codecs():
        codecs = ", ".join(f"{codec} ({', '.join(packages)})" for codec, packages in missing.items())
        packages = sorted({package for packages in missing.values() for package in packages})
        raise CodecError(
            f"batches compressed with {codecs} could not be read; install the extra `interestream[kafka]`, or "
            f"`pip install {' '.join(packages)}`"
        )
