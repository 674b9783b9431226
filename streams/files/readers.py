"""Reads event logs and item or user files as chunks of columns: CSV, TSV, JSONL, Parquet and RecBole atomic files.

Decides what a row is and where it stands in its file. Knows nothing of what the columns mean.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from interest.errors import InputError
from streams.files.columns import Column

CHUNK = 20_000  # rows a chunk; also the rows of one store transaction
RECBOLE = {".inter", ".item", ".user"}
_DELIMITED = {".csv": ",", ".tsv": "\t", ".txt": "\t", **dict.fromkeys(RECBOLE, "\t")}
csv.field_size_limit(16 << 20)  # characters: what a quote that is never closed may swallow before it is an error
_JSON_LINES = {".jsonl", ".ndjson"}
_PARQUET = {".parquet", ".pq"}


class BrokenRow(msgspec.Struct, frozen=True):
    """A row that could not even be split into columns."""

    line: int
    reason: str
    raw: str


class Chunk(msgspec.Struct):
    """Neighbouring rows of a file, as columns of one length."""

    columns: dict[str, Column]
    lines: Sequence[int]  # the file's line (for Parquet: row, from 1) of each row
    broken: list[BrokenRow]

    def row(self, index: int) -> dict[str, Any]:
        """One row as read, for the report of a rejected one."""
        return {
            name: column[index].as_py() if isinstance(column, pa.Array) else column[index]
            for name, column in self.columns.items()
        }


class TableFile:
    """One file; its columns are known at once, its rows are streamed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        names = path.suffixes[-2:] if path.suffix == ".gz" else [path.suffix]
        self.kind = names[0].lower() if names else ""
        known = [*_DELIMITED, *_JSON_LINES, *_PARQUET]
        if not path.is_file():
            raise InputError(f"there is no file {path}")
        if self.kind not in known:
            raise InputError(f"{path}: the ending {self.kind or '(none)'} is not known; use one of {' '.join(known)}")
        self.lists: set[str] = set()  # RecBole's token_seq columns: lists separated by blanks
        try:
            self.columns = self._read_columns()
        except (EOFError, OSError, zlib.error, pa.ArrowInvalid) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        if not self.columns:
            raise InputError(f"{path} is empty: it has no header line" if self._is_text else f"{path} has no columns")

    def chunks(self, columns: Sequence[str] | None = None, size: int = CHUNK) -> Iterator[Chunk]:
        """The file's rows in file order; `columns` limits what is decoded (all of them by default)."""
        wanted = list(columns if columns is not None else self.columns)
        read = self._parquet if self.kind in _PARQUET else self._delimited
        last = 0
        try:
            for chunk in (self._json_lines if self.kind in _JSON_LINES else read)(wanted, size):
                last = chunk.lines[-1] if chunk.lines else last
                yield chunk
        except (EOFError, OSError, zlib.error, pa.ArrowException) as error:
            raise InputError(f"{self.path} is damaged after line {last:,}: {error}; copy it anew") from error

    @property
    def _is_text(self) -> bool:
        return self.kind not in _PARQUET

    def _open(self) -> TextIO:
        # undecodable bytes become surrogates, so that one bad row is one bad row and not the end of the file
        if self.path.suffix == ".gz":
            return gzip.open(self.path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
        return self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")

    def _csv(self, file: TextIO) -> Any:
        # tab-separated files have no quoting: a quote in a title is a quote
        if self.kind == ".csv":
            return csv.reader(file)
        return csv.reader(file, delimiter=_DELIMITED[self.kind], quoting=csv.QUOTE_NONE)

    def _read_columns(self) -> list[str]:
        if self.kind in _PARQUET:
            return [str(name) for name in pq.read_schema(self.path).names]
        with self._open() as file:
            if self.kind in _JSON_LINES:
                keys: dict[str, None] = {}
                for line in itertools.islice(file, 100):
                    try:
                        keys.update(dict.fromkeys(msgspec.json.decode(_bytes(line), type=dict[str, Any])))
                    except (msgspec.DecodeError, UnicodeError):
                        continue  # reported as a broken row when the rows are read
                return list(keys)
            header: list[str] = next(self._csv(file), [])
        names = []
        for cell in header:
            name, _, kind = cell.strip().partition(":") if self.kind in RECBOLE else (cell.strip(), "", "")
            names.append(name)
            if kind.endswith("_seq"):
                self.lists.add(name)
        return names

    def _parquet(self, wanted: list[str], size: int) -> Iterator[Chunk]:
        first = 1
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=size, columns=wanted, use_threads=False):
                columns: dict[str, Column] = {name: batch.column(name) for name in wanted}
                yield Chunk(columns, range(first, first + len(batch)), [])
                first += len(batch)

    def _delimited(self, wanted: list[str], size: int) -> Iterator[Chunk]:
        places, width = [self.columns.index(name) for name in wanted], len(self.columns)
        with self._open() as file:
            reader = self._csv(file)
            next(reader)
            line, ended = reader.line_num, False
            while not ended:
                read: list[list[str]] = []
                broken: list[BrokenRow] = []
                try:
                    read.extend(itertools.islice(reader, size))  # keeps what came before an error
                    ended = len(read) < size
                except csv.Error as error:
                    broken.append(BrokenRow(reader.line_num, f"not readable as {self.kind[1:]}: {error}", ""))
                lines = _line_numbers(read, line, reader.line_num - len(broken))
                line = reader.line_num
                rescued: list[tuple[int, list[str]]] = []
                if set(map(len, read)) != {width}:
                    for row, number in zip(read, lines, strict=True):
                        if row and len(row) != width:  # a blank line is not a row
                            whole, wrong = self._split_again(row, number, width)
                            rescued += whole
                            broken += wrong
                    good = [(number, row) for row, number in zip(read, lines, strict=True) if len(row) == width]
                    good = sorted(good + rescued, key=lambda pair: pair[0])
                    read, lines = [row for _, row in good], [number for number, _ in good]
                turned = list(zip(*read, strict=True)) or [()] * width
                yield Chunk({name: list(turned[at]) for name, at in zip(wanted, places, strict=True)}, lines, broken)

    def _split_again(
        self, row: list[str], last: int, width: int
    ) -> tuple[list[tuple[int, list[str]]], list[BrokenRow]]:
        """A row of the wrong width. A quote that was never closed has swallowed lines: those are read one by one."""
        lines = _DELIMITED[self.kind].join(row).split("\n")
        first = last - len(lines) + 1
        reason = f"{len(row)} columns where the header has {width}"
        if len(lines) > 1:
            reason = "a quote is opened and not closed on this line"
        whole, broken = [], [BrokenRow(first, reason, lines[0])]
        for number, line in enumerate(lines[1:], first + 1):
            cells = line.rstrip("\r").split(_DELIMITED[self.kind])
            if len(cells) == width:
                whole.append((number, cells))
            elif line.strip():
                broken.append(BrokenRow(number, f"{len(cells)} columns where the header has {width}", line))
        return whole, broken

    def _json_lines(self, wanted: list[str], size: int) -> Iterator[Chunk]:
        decoder = msgspec.json.Decoder(dict[str, Any])
        with self._open() as file:
            numbered = enumerate(file, 1)
            while taken := list(itertools.islice(numbered, size)):
                rows, lines, broken = [], [], []
                for number, line in taken:
                    if not line.strip():
                        continue
                    try:
                        rows.append(decoder.decode(_bytes(line)))
                    except UnicodeError:
                        broken.append(BrokenRow(number, "not UTF-8", line.rstrip("\n")))
                    except msgspec.DecodeError as error:
                        broken.append(BrokenRow(number, f"not a JSON object: {error}", line.rstrip("\n")))
                    else:
                        lines.append(number)
                yield Chunk({name: [row.get(name) for row in rows] for name in wanted}, lines, broken)


def _bytes(line: str) -> bytes:
    return line.encode()  # raises UnicodeEncodeError where the file was not UTF-8


def _line_numbers(rows: list[list[str]], before: int, last: int) -> Sequence[int]:
    """The line each row ends on; quoted line breaks are counted, in the rare file that has them."""
    if last - before == len(rows):
        return range(before + 1, last + 1)
    numbers = []
    for row in rows:
        before += 1 + sum(cell.count("\n") for cell in row)
        numbers.append(before)
    return numbers
