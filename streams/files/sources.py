"""The files of one import, opened together: the log, the catalogue, the profiles; and where their bad rows go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from interest.errors import InputError
from streams.files.catalogue import ItemFile, UserFile
from streams.files.mapping import ColumnMap
from streams.files.readers import TableFile
from streams.files.rejects import RejectWriter, clear
from streams.files.rows import BehaviorLog, LogOptions
from streams.files.text_files import known_encoding
from streams.files.understood import table

_KINDS = ("log", "items", "users")


class SourceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says of the files."""

    column_map: ColumnMap = ColumnMap()
    log: LogOptions = LogOptions()
    encodings: dict[str, str] = {}  # by file: log, items, users
    rejected: Path | None = None  # none: beside each file
    strict: bool = False


class Sources(msgspec.Struct, frozen=True):
    """Opened files whose columns have been found."""

    log: BehaviorLog
    items: ItemFile | None
    users: UserFile | None
    options: SourceOptions

    def rejects(self, path: Path) -> RejectWriter:
        """A writer for what cannot be used of one of the files."""
        return RejectWriter(path, file=self.options.rejected, strict=self.options.strict)

    def understood(self) -> Iterator[str]:
        """The table of what was understood of each file, as lines."""
        for file in (self.items, self.users):
            if file is not None:
                yield from table(file.understood())
        yield from table(self.log.understood(catalogue=self.items is None))


def open_sources(log: Path, items: Path | None, users: Path | None, options: SourceOptions) -> Sources:
    """Open the files and find their columns. Raises InputError for what no file has."""
    encodings, column_map = options.encodings, options.column_map
    files = {"log": TableFile(log, options.log.columns, encodings.get("log"))}
    for kind, path in (("items", items), ("users", users)):
        if path is not None:
            files[kind] = TableFile(path, encoding=encodings.get(kind))
    column_map.check({kind: (file.path, file.columns) for kind, file in files.items()})
    maps = {kind: column_map.of(kind, file.columns) for kind, file in files.items()}
    if options.rejected is not None:
        clear(options.rejected)
    return Sources(
        BehaviorLog(files["log"], maps["log"], options.log),
        ItemFile(files["items"], maps["items"]) if "items" in files else None,
        UserFile(files["users"], maps["users"]) if "users" in files else None,
        options,
    )


def parse_encodings(text: str | None) -> dict[str, str]:
    """`latin-1` for all files, or `items=latin-1,log=utf-16`."""
    found: dict[str, str] = {}
    for part in filter(None, (text or "").split(",")):
        file, sign, name = (piece.strip() for piece in part.rpartition("="))
        if sign and file not in _KINDS:
            raise InputError(f"--encoding {part}: there is no file {file!r}; they are log, items and users")
        found |= dict.fromkeys([file] if sign else _KINDS, known_encoding(name))
    return found
