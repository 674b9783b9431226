"""Opens text files as text: plain or gzip, in UTF-8, UTF-16 or what else is named."""

from __future__ import annotations

import codecs
import gzip
import io
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from interest.errors import InputError

_MARKS = {  # the longest first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LOOKED_AT = 4096  # bytes


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, unpacked if they are gzip, whatever its name says."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb") if packed else path.open("rb"))


def open_text(path: Path, encoding: str | None = None) -> TextIO:
    """The file's text, with its line ends as they are.

    A byte order mark goes before `encoding`. Undecodable bytes become surrogates, so that one bad row is one bad row
    and not the end of the file.
    """
    file = open_bytes(path)
    try:
        beginning = file.read(_LOOKED_AT)
    finally:
        file.close()
    chosen = next((name for mark, name in _MARKS.items() if beginning.startswith(mark)), None)
    chosen = chosen or encoding or _without_mark(beginning)
    errors = "surrogateescape" if _bytewise(chosen) else "replace"
    return io.TextIOWrapper(open_bytes(path), encoding=chosen, errors=errors, newline="")


def known_encoding(name: str) -> str:
    """The name, if Python knows it as the encoding of text. Raises InputError for another."""
    try:
        "".encode(name)  # the codecs that are not of text are unknown here too
    except LookupError:
        raise InputError(f"--encoding {name}: not known; for example utf-8, utf-16, latin-1, cp1252, gb18030") from None
    return name


def _without_mark(beginning: bytes) -> str:
    """UTF-16 without a mark shows by its zeros: every other byte of Latin letters."""
    even, odd = beginning[0::2], beginning[1::2]
    if len(beginning) > 3 and odd.count(0) > 0.6 * len(odd) and even.count(0) < 0.1 * len(even):
        return "utf-16-le"
    if len(beginning) > 3 and even.count(0) > 0.6 * len(even) and odd.count(0) < 0.1 * len(odd):
        return "utf-16-be"
    return "utf-8"


def _bytewise(encoding: str) -> bool:
    return not codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
