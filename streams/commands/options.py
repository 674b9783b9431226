"""Options that several commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from interest.errors import InputError
from streams.settings.schema import Backend

Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="The store, e.g. sqlite:///interestream.db. Default: INTERESTREAM_STORE, else interestream.db here.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text to read.")]
LlmBackend = Annotated[
    Backend | None,
    typer.Option(
        help="What runs a checkpoint in this process: int8 (CTranslate2), transformers, or auto, int8 if it is there.",
        show_default="INTERESTREAM_LLM_BACKEND, else transformers",
    ),
]
PromptVersion = Annotated[
    str | None,
    typer.Option(
        help="Version of the prompts: plain-1 for small models, json-1 for capable ones; plain-2 and json-2 ask for "
        "what sets a user apart from the base rates that `interestream rates` shows, plain-3 also for what comes back "
        "in the user's next partition, knowledge-1 for what a capable model knows of the titles."
    ),
]
T = TypeVar("T")
DAY = 86_400.0
LATEST = 4_102_444_800.0  # 2100-01-01


def event_time(option: str, text: str, *, whole_day: bool = False) -> float:
    """An option's time as UTC seconds; it may be 2026-01-31, 2026-01-31T12:00 (UTC, or with an offset), or seconds.

    whole_day: a date alone is the end of its day. Raises InputError for what is not a time from 1970 to 2100.
    """
    moment, seconds = _read(datetime.fromisoformat, text), _read(float, text)
    if moment is not None and (seconds is None or len(text) == len("20260131")):  # a date, not a day of 1970
        at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        at += DAY - 1e-3 if whole_day and len(text) <= len("2026-01-31") else 0.0
    elif seconds is not None:
        at = seconds
    else:
        raise InputError(
            f"{option} {text}: give a date such as 2026-01-31, a time such as 2026-01-31T12:00 (UTC), or UTC seconds"
        )
    if not 0 <= at < LATEST:
        raise InputError(f"{option} {text} is not a time between 1970 and 2100, UTC seconds")
    return at


def check_file(option: str, file: Path | None) -> None:
    """Raises InputError where the file of an option cannot be written: said before the work rather than after it."""
    if file is None:
        return
    if file.is_dir():
        raise InputError(f"{option} {file} is a folder; give the name of a file")
    if not file.parent.is_dir():
        there = f"{file.parent} is not a folder" if file.parent.exists() else f"there is no folder {file.parent}"
        raise InputError(f"{option} {file}: {there}; make it first, or name another file")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise InputError(f"{option} {file} may not be written here; name another file")


def write_file(option: str, file: Path, content: bytes) -> None:
    """Write the file of an option. Raises InputError where that fails."""
    try:
        file.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"{option} {file} cannot be written: {error.strerror or error}; make room or name another file"
        ) from None


def _read(parse: Callable[[str], T], text: str) -> T | None:
    try:
        return parse(text)
    except ValueError:
        return None
