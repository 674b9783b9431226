"""Settings: from a TOML file, then the environment, then options; typed, and an unknown key is an error.

INTERESTREAM_CONFIG names the file. A key `partitions` of its table `[kafka]` is INTERESTREAM_KAFKA_PARTITIONS in the
environment; INTERESTREAM_STORE, INTERESTREAM_CACHE, INTERESTREAM_KAFKA (the brokers) and INTERESTREAM_LLM_URL are the
ones a deployment needs. Secrets print as ***.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec

from interest.errors import InputError

DEFAULT_STORE = "sqlite:///interestream.db"
PREFIX = "INTERESTREAM_"


class Secret:
    """A text that never shows itself; `value` has it."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    brokers: str = "127.0.0.1:9092"  # host:port, host:port
    prefix: str = ""  # before every topic's and group's name: several installations on one cluster
    partitions: int = 8  # of every topic keyed by user; one worker process reads at most so many at once
    replication: int = 1  # 3 in production
    retention_days: float = 7.0  # of behaviors, partitions, interest-updates and the dead letters
    session_timeout_s: float = 45.0  # a worker that is silent for so long has its partitions given away
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: str | None = None
    password: Secret | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None


class LlmSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: str | None = None  # an OpenAI-compatible server such as vLLM; none: statistics write the texts
    model: str | None = None  # its name there
    key: Secret | None = None
    prompt_version: str | None = None  # none: json-1
    chained: bool = False  # a summary also reads the one before
    noun: str = "title,titles"  # what one item and several are called: film,films
    concurrent: int = 64  # calls in flight
    window: int = 256  # partitions in hand at once: enough that 64 calls are always in flight
    timeout_s: float = 120.0  # of one call


class IngestSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    count: int | None = 50  # the policy; see streams/policy.py
    gap: str | None = None  # 12h, 7d...
    span: Literal["day", "week", "month", "year"] | None = None
    tokens: int | None = None
    batch: int = 20_000  # messages of one transaction, at most
    idle_s: float = 60.0  # a Kafka partition silent for so long no longer holds back the sweep's watermark


class FusionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    encoder: str | None = None  # a folder; none: the fetched MiniLM
    half_life: float | None = None  # partitions; none: fusion/pool.py's
    batch: int = 64  # interests encoded together
    poll_s: float = 10.0  # how often a new artifact is looked for


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"  # of /metrics, /live and /ready
    port: int = 8080  # of the first worker; the next takes the next. 0: a free one
    drain_s: float = 8.0  # between SIGTERM and the end
    stuck_s: float = 600.0  # without progress while there is work, and nothing known to be down: the worker exits
    log: Literal["json", "text"] = "text"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    store: str = DEFAULT_STORE
    cache: str | None = None
    kafka: KafkaSettings = KafkaSettings()
    llm: LlmSettings = LlmSettings()
    ingest: IngestSettings = IngestSettings()
    fusion: FusionSettings = FusionSettings()
    agent: AgentSettings = AgentSettings()


_SHORT = {"INTERESTREAM_KAFKA": ("kafka", "brokers"), "INTERESTREAM_CONFIG": None}


def load_settings(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a file (else INTERESTREAM_CONFIG's, else none) under those of the environment.

    Raises InputError for a key that there is not, and for a value of another type.
    """
    named = file or (Path(environ["INTERESTREAM_CONFIG"]) if environ.get("INTERESTREAM_CONFIG") else None)
    found = _read(named) if named else {}
    base = _convert(found, str(named)) if named else Settings()
    told: dict[str, Any] = msgspec.to_builtins(base, enc_hook=lambda secret: secret.value)
    for name, text in sorted(environ.items()):
        if name.startswith(PREFIX) and text:
            place = _SHORT[name] if name in _SHORT else _place(name)
            if place is not None:
                section, key = place
                (told[section] if section else told)[key] = text
                _convert(told, name)  # so that the error names the variable
    return _convert(told, "the environment")


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise InputError(f"the settings file {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the settings file {file} is not TOML: {error}") from error


def _convert(values: dict[str, Any], origin: str) -> Settings:
    try:
        return msgspec.convert(values, Settings, strict=False, dec_hook=lambda _type, text: Secret(text))
    except msgspec.ValidationError as error:
        raise InputError(f"{origin}: {error}; the README lists every setting") from error


def _place(name: str) -> tuple[str, str]:
    """The table ("" is the top) and the key of an environment variable's name."""
    lowered = name.removeprefix(PREFIX).lower()
    if lowered in ("store", "cache"):
        return "", lowered
    section, _, key = lowered.partition("_")
    kind = get_type_hints(Settings).get(section)
    known = kind.__struct_fields__ if kind is not None and hasattr(kind, "__struct_fields__") else ()
    if key not in known:
        near = ", ".join(f"{PREFIX}{section}_{field}".upper() for field in known) or "see the README"
        raise InputError(f"the environment has {name}, which is no setting; there are: {near}")
    return section, key


def store_url(option: str | None = None) -> str:
    """The store's SQLAlchemy URL: the option, else INTERESTREAM_STORE, else a file in the working folder."""
    return option or os.environ.get("INTERESTREAM_STORE") or DEFAULT_STORE


def cache_folder() -> Path:
    """The folder of fetched things: INTERESTREAM_CACHE, else ~/.cache/interestream."""
    return Path(os.environ.get("INTERESTREAM_CACHE") or Path.home() / ".cache" / "interestream").expanduser()


def sample_log() -> Path:
    """ML-100K's folder: ml-100k.inter, ml-100k.item, ml-100k.user (RecBole atomic files)."""
    return cache_folder() / "ml-100k"


def default_llm() -> Path:
    """SmolLM2-135M-Instruct as a transformers checkpoint."""
    return cache_folder() / "smollm2-135m-instruct"


def default_encoder() -> Path:
    """The all-MiniLM-L6-v2 text encoder."""
    return cache_folder() / "all-minilm-l6-v2"


def model_folder(name: str) -> Path:
    """Where `interestream fetch --model NAME` puts a model of a hub: BAAI/bge-m3 in models/BAAI--bge-m3."""
    return cache_folder() / "models" / name.replace("/", "--")
