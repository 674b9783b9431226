"""Settings: from a TOML file, then the environment, then options; typed, and an unknown key is an error.

INTERESTREAM_CONFIG names the file. A key `partitions` of its table `[kafka]` is INTERESTREAM_KAFKA_PARTITIONS in the
environment; INTERESTREAM_STORE, INTERESTREAM_CACHE, INTERESTREAM_KAFKA (the brokers) and INTERESTREAM_LLM_URL are the
ones a deployment needs. A value `none` unsets what may be unset. Secrets print as ***; no error's text has one.
"""

from __future__ import annotations

import os
import re
import tomllib
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from interest.errors import InputError
from streams.settings.rules import problems
from streams.settings.schema import DEFAULT_STORE, Secret, Settings

PREFIX = "INTERESTREAM_"
DEFAULT = "default"


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting as it stands, fit to be shown."""

    name: str  # kafka.partitions
    variable: str  # INTERESTREAM_KAFKA_PARTITIONS
    value: str | int | float | bool | None  # a secret is ***
    origin: str  # "default", the file's name, or the variable's


def load_settings(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a file (else INTERESTREAM_CONFIG's, else none) under those of the environment.

    Raises InputError for an unknown key and for an impossible value; it names the variable, or the file
    with table and key.
    """
    return read_settings(file, environ)[0]


def read_settings(file: Path | None, environ: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """The settings, and where each that is not the default came from, by its name (`kafka.partitions`)."""
    named = file or (Path(environ["INTERESTREAM_CONFIG"]) if environ.get("INTERESTREAM_CONFIG") else None)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if named:
        values = _without_none(_read(named))
        _convert(values, str(named), strict=True)
        origins = {name: str(named) for name in _names(values)}
    for variable, text in sorted(environ.items()):
        if variable.startswith(PREFIX) and variable != "INTERESTREAM_CONFIG" and text:
            section, key = _place(variable)
            name = f"{section}.{key}" if section else key
            value = None if text.strip().lower() == "none" and _optional(section, key) else text
            single: dict[str, Any] = {section: {key: value}} if section else {key: value}
            _convert(single, variable, strict=False)
            (values.setdefault(section, {}) if section else values)[key] = value
            origins[name] = variable
    settings = _convert(values, "the settings", strict=False)
    for name, problem in problems(settings):
        raise InputError(f"{_where(name, origins)}: {problem}")
    return settings, origins


def shown_settings(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> list[Setting]:
    """Every setting with its value and origin; secrets, and passwords in URLs, as ***."""
    settings, origins = read_settings(file, environ)
    return [
        Setting(
            name=name,
            variable=_variable(name),
            value=_shown(name, value),
            origin=origins.get(name, DEFAULT),
        )
        for name, value in _each(settings)
    ]


def shown_url(url: str) -> str:
    """A URL without what may be secret in it: the password, and in the query whatever is called like one.

    Masks up to the last @: a password with an @ or / that should have been escaped does not show its end either.
    """
    scheme, found, rest = url.partition("://")
    rest = rest if found else scheme
    rest = re.sub(r"^([^:/@]*):(.*)@", r"\1:***@", rest, flags=re.DOTALL)
    rest = re.sub(r"(?i)([?&][^=&]*(?:pass|pwd|secret|token|key)[^=&]*)=[^&]*", r"\1=***", rest)
    return f"{scheme}://{rest}" if found else rest


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise InputError(f"the settings file {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the settings file {file} is not TOML: {error}") from None


def _convert(values: dict[str, Any], origin: str, *, strict: bool) -> Settings:
    try:
        return msgspec.convert(values, Settings, strict=strict, dec_hook=_secret)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        section, _, key = path.strip(".`").partition(".")
        text = text[0].lower() + text[1:]
        if match := re.search(r"unknown field `(.+)`", text):
            known = ", ".join(_keys(section))
            text = f"{match[1]} is not a setting" + (f" of [{section}]" if section else "") + f"; there are: {known}"
        elif not origin.startswith(PREFIX):
            origin += f": [{section}] {key}" if key else f": {section}"
        raise InputError(f"{origin}: {text}") from None  # its cause has the values


def _secret(_type: Any, text: Any) -> Secret:
    if not isinstance(text, str):
        raise ValueError("Expected `str`")  # noqa: TRY004  (msgspec turns ValueError alone into its own error)
    return Secret(text)


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    """A file's values; TOML has no null, so the text "none" stands for it where a setting may be unset."""
    cleaned: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            cleaned[name] = {key: _unset(name, key, item) for key, item in value.items()}
        else:
            cleaned[name] = _unset("", name, value)
    return cleaned


def _unset(section: str, key: str, value: Any) -> Any:
    return None if value == "none" and _optional(section, key) else value


def _optional(section: str, key: str) -> bool:
    """Whether a setting may be None."""
    kind = _tables().get(section, Settings) if section else Settings
    hint = get_type_hints(kind).get(key)
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _tables() -> dict[str, type[msgspec.Struct]]:
    return {
        name: kind
        for name, kind in get_type_hints(Settings).items()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    }


def _keys(section: str) -> tuple[str, ...]:
    return (_tables()[section] if section else Settings).__struct_fields__


def _names(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from (f"{name}.{key}" for key in value)
        else:
            yield name


def _each(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Every setting's name and value."""
    tables = _tables()
    for name in Settings.__struct_fields__:
        value = getattr(settings, name)
        if name in tables:
            yield from ((f"{name}.{key}", getattr(value, key)) for key in tables[name].__struct_fields__)
        else:
            yield name, value


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, Secret):
        return str(value)
    return shown_url(value) if name in ("store", "llm.url") and value else value


def _variable(name: str) -> str:
    return "INTERESTREAM_KAFKA" if name == "kafka.brokers" else PREFIX + name.replace(".", "_").upper()


def _where(name: str, origins: Mapping[str, str]) -> str:
    origin = origins.get(name, DEFAULT)
    section, _, key = name.rpartition(".")
    return _variable(name) if origin == DEFAULT or origin.startswith(PREFIX) else f"{origin}: [{section}] {key}"


def _place(variable: str) -> tuple[str, str]:
    """The table ("" is the top) and the key of an environment variable's name."""
    if variable == "INTERESTREAM_KAFKA":
        return "kafka", "brokers"
    lowered = variable.removeprefix(PREFIX).lower()
    tables = _tables()
    if lowered in Settings.__struct_fields__ and lowered not in tables:
        return "", lowered
    section, _, key = lowered.partition("_")
    if section not in tables or key not in _keys(section):
        near = ", ".join(_variable(f"{section}.{key}") for key in _keys(section)) if section in tables else ""
        raise InputError(
            f"the environment has {variable}, which is not a setting; there are: {near or '`interestream settings`'}"
        )
    return section, key


def store_url(option: str | None = None) -> str:
    """The store's SQLAlchemy URL: the option, else INTERESTREAM_STORE, else the settings file's, else a file here."""
    return option or os.environ.get("INTERESTREAM_STORE") or _of_file("store") or DEFAULT_STORE


def cache_folder() -> Path:
    """The folder of fetched things: INTERESTREAM_CACHE, else the settings file's, else ~/.cache/interestream."""
    named = os.environ.get("INTERESTREAM_CACHE") or _of_file("cache")
    return Path(named or Path.home() / ".cache" / "interestream").expanduser()


def _of_file(key: str) -> str | None:
    """What INTERESTREAM_CONFIG's file says, for commands that need no other setting."""
    file = os.environ.get("INTERESTREAM_CONFIG")
    if not file:
        return None
    value: str | None = getattr(_convert(_without_none(_read(Path(file))), file, strict=True), key)
    return value


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
