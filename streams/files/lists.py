"""Cells that hold a list, however it is written: categories in a catalogue, and other attributes of several values."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from streams.files.text import is_missing

_SEPARATORS = ("|", ";", ",")
_NONE = re.compile(r"\(?\s*no (genres?|categor(y|ies)|tags?) listed\s*\)?", re.IGNORECASE)  # MovieLens's words
_NAMES = ("name", "title", "label", "value", "category", "genre", "tag", "text", "description")  # of a list's objects
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")


def as_list(value: Any, *, blanks: bool = False) -> tuple[str, ...]:
    """The texts of a list, each once: a list as it is; text as JSON, as Python or NumPy print it, or separated.

    `blanks`: text is split at blanks (RecBole's token_seq), else at the first of | ; , that it has.
    """
    return tuple(dict.fromkeys(part for part in _parts(value, blanks=blanks) if not _is_none(part)))


def _parts(value: Any, *, blanks: bool) -> Iterator[str]:
    if isinstance(value, str):
        text = value.strip()
        if _is_none(text):
            return
        inner = _bracketed(text)
        if inner is not None:
            yield from _parts(inner, blanks=False)
        elif blanks:
            yield from text.split()
        else:
            separator = next((sign for sign in _SEPARATORS if sign in text), "|")
            yield from (part.strip() for part in text.split(separator))
    elif isinstance(value, Mapping):
        name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
        if name is not None:
            yield name.strip()
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            inner = _bracketed(part.strip()) if isinstance(part, str) else part
            if inner is None and isinstance(part, str):  # a comma in a list's own text is part of it: "Action, classic"
                yield part.strip()
            else:
                yield from _parts(inner, blanks=False)
    elif not is_missing(value) and not isinstance(value, bytes):
        yield str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _bracketed(text: str) -> Any:
    """What a text of a list or an object stands for; None for any other text."""
    if len(text) < 2 or text[0] + text[-1] not in ("[]", "()", "{}"):
        return None
    try:
        return msgspec.json.decode(text.encode(errors="replace"))
    except msgspec.DecodeError:
        pass
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        found = None
    inner = text[1:-1]
    quoted = [first or second for first, second in _QUOTED.findall(inner)]
    if quoted and "," not in _QUOTED.sub("", inner) and not isinstance(found, dict | set):
        return quoted  # NumPy's: blanks between; Python would join the texts
    if isinstance(found, list | tuple | set | frozenset | dict):
        return found
    if text[0] == "(":
        return None  # text in brackets
    return [part.strip().strip("'\"") for part in inner.split(",")]  # PostgreSQL's {a,b}; a list without quotes


def _is_none(text: str) -> bool:
    return is_missing(text) or bool(_NONE.fullmatch(text))
