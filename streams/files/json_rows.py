"""Rows of JSON: an object a line, or one array of objects."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from interest.errors import InputError
from streams.files.table import BrokenRow, Chunk
from streams.files.text_files import open_text

SUFFIXES = (".jsonl", ".ndjson", ".json")
_HEADER_ROWS = 100  # whose keys are the columns
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


class JsonFile:
    """One file. An array is held in memory, at the size of the file; lines are streamed."""

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        self.path, self.encoding = path, encoding
        self.lists: set[str] = set()
        self.decimal_comma = False
        with open_text(path, encoding) as file:
            beginning = file.read(4096).lstrip()
        self._is_array = beginning.startswith("[") and self._array() is not None
        if not self._is_array and beginning.startswith("{"):
            self._refuse_one_object()
        keys: dict[str, None] = {}
        for _, text in itertools.islice(self._texts(), _HEADER_ROWS):
            try:
                keys.update(dict.fromkeys(_OBJECT.decode(text)))
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                continue  # reported as a broken row when the rows are read
        self.columns = list(keys)

    def chunks(self, wanted: Sequence[str], size: int) -> Iterator[Chunk]:
        numbered = self._texts()
        while taken := list(itertools.islice(numbered, size)):
            rows, lines, broken = [], [], []
            for number, text in taken:
                try:
                    rows.append(_OBJECT.decode(text))
                except UnicodeError:
                    broken.append(BrokenRow(number, "not UTF-8", bytes(text).decode(errors="surrogateescape")))
                except (msgspec.DecodeError, RecursionError) as error:
                    raw = bytes(text).decode(errors="surrogateescape")
                    reason = "not UTF-8" if any("\ud800" <= char <= "\udfff" for char in raw) else None
                    broken.append(BrokenRow(number, reason or f"not a JSON object: {error}", raw))
                else:
                    lines.append(number)
            yield Chunk({name: [row.get(name) for row in rows] for name in wanted}, lines, broken)

    def _texts(self) -> Iterable[tuple[int, bytes | msgspec.Raw]]:
        """Each row's JSON, numbered from 1: by line, or by place in the array."""
        if self._is_array:
            return iter(enumerate(self._array() or [], 1))
        return self._lines()

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with open_text(self.path, self.encoding) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n").encode(errors="surrogateescape")

    def _array(self) -> list[msgspec.Raw] | None:
        """The elements; None if the text as a whole is not an array."""
        with open_text(self.path, self.encoding) as file:
            text = file.read()
        try:
            return _ARRAY.decode(text.encode(errors="surrogateescape"))
        except (msgspec.DecodeError, UnicodeError) as error:
            if self.path.name.lower().removesuffix(".gz").endswith(".json"):
                raise InputError(f"{self.path} begins as a JSON array and is damaged: {error}; copy it anew") from error
            return None

    def _refuse_one_object(self) -> None:
        """One object over several lines is not rows: say what it is."""
        with open_text(self.path, self.encoding) as file:
            first = file.readline()
            try:
                msgspec.json.decode(first.encode(errors="surrogateescape"))
            except (msgspec.DecodeError, UnicodeError):
                pass
            else:
                return
            rest = file.read()
        try:
            found = msgspec.json.decode((first + rest).encode(errors="surrogateescape"))
        except (msgspec.DecodeError, UnicodeError):
            return
        keys = ", ".join(list(found)[:8]) if isinstance(found, dict) else ""
        raise InputError(
            f"{self.path} is one JSON object, with {keys or 'no keys'}; write its rows as one array of objects, or as "
            "one object a line"
        )
