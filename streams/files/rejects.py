"""Rows that cannot be used are written aside, each with its file, line and reason."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import msgspec

from interest.errors import InputError


class RejectedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is not a behaviour, an item or a profile, with the reason."""

    file: str
    line: int
    reason: str
    row: Any  # the row as read: columns, or the raw text where it could not be split


class RejectWriter:
    """Writes rejected rows beside their file, or to `file`; only once there is one.

    Anew in each run, for reading the file again finds the same ones; to a `file` that several share they are added.
    """

    def __init__(self, source: Path, *, file: Path | None = None, strict: bool = False) -> None:
        self.path = file or source.with_name(source.name + ".rejected.jsonl")
        self.strict, self.count = strict, 0
        self.first: RejectedRow | None = None
        self._shared = file is not None

    def __enter__(self) -> RejectWriter:
        if not self._shared:
            clear(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        return

    def add(self, rejected: list[RejectedRow]) -> None:
        """Write them. Raises InputError at the first where `strict`, and where the file cannot be written."""
        if not rejected:
            return
        if self.strict:
            raise _strictly(rejected[0])
        try:
            with self.path.open("ab") as file:
                file.writelines(msgspec.json.encode(_printable(one)) + b"\n" for one in rejected)
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.first = self.first or rejected[0]
        self.count += len(rejected)

    def told(self) -> str:
        """The end of a command's line: how many rows were set aside, and where they are; empty where none was."""
        return f"; {self.count:,} rejected, each with line and reason: {self.path}" if self.count else ""


def clear(path: Path) -> None:
    """Take away what an earlier run wrote; a device or a pipe stays."""
    try:
        if path.is_file():
            path.unlink()
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> InputError:
    """What to do where rejected rows cannot be written."""
    if error.errno == errno.ENOSPC:
        remedy = "make room and run the same command again, it goes on; or write them elsewhere: --rejected FILE"
    else:
        remedy = "say where rejected rows may be written: --rejected FILE"
    return InputError(f"rejected rows cannot be written to {path}: {error.strerror or error}; {remedy}")


def _strictly(rejected: RejectedRow) -> InputError:
    """What --strict says of the first bad row."""
    return InputError(
        f"{rejected.file}, line {rejected.line}: {rejected.reason} (--strict stops at the first bad row; "
        "what came before it may be in the store already, the same command goes on from there)"
    )


def _printable(rejected: RejectedRow) -> RejectedRow:
    """The row as JSON can hold it: bytes that were not UTF-8 are shown as \\xNN, NaN as text."""

    def readable(value: object) -> object:
        if isinstance(value, str):
            return value.encode(errors="surrogateescape").decode(errors="backslashreplace")
        return value if isinstance(value, int | bool | None) else str(value)

    row = rejected.row
    shown = {name: readable(value) for name, value in row.items()} if isinstance(row, dict) else readable(row)
    return msgspec.structs.replace(rejected, row=shown)
