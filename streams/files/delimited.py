"""Rows of CSV, TSV and RecBole's atomic files; of CSV also with semicolons, as spreadsheets in Europe write it."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

from interest.errors import InputError
from streams.files.table import BrokenRow, Chunk
from streams.files.text_files import open_text

RECBOLE = (".inter", ".item", ".user")
SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t", **dict.fromkeys(RECBOLE, "\t")}
OTHERS = (";", "\t", "|", ",")  # of a CSV or text file whose first line its own separator does not part
csv.field_size_limit(16 << 20)  # characters: what a quote that is never closed may swallow before it is an error


class DelimitedFile:
    """One file; `columns` are its header's, or the names given for a file that has none."""

    def __init__(self, path: Path, kind: str, names: Sequence[str] = (), encoding: str | None = None) -> None:
        self.path, self.kind, self.encoding = path, kind, encoding
        self.lists: set[str] = set()  # RecBole's token_seq columns: lists separated by blanks
        self._quoted, self._has_header = kind == ".csv", not names
        self._separator = SEPARATORS[kind]
        first = self._first_row()
        is_parted = len(first) == len(names) if names else len(first) > 1
        if kind not in RECBOLE and not is_parted:
            first = self._parted(first, len(names))
        self.decimal_comma = self._separator == ";"  # as spreadsheets write where 1.5 is 1,5
        if first and kind != ".csv" and all(_is_quoted(cell) for cell in first):
            # tab-separated files have no quoting, a quote in a title is a quote; but for one whose header is quoted
            self._quoted = True
            first = [cell.strip()[1:-1] for cell in first]
        if names and len(first) != len(names):
            raise InputError(
                f"{path}: --columns names {len(names)} columns, the first line has {len(first)}: "
                f"{self._separator.join(first)[:200]!r}"
            )
        self.columns = list(names) if names else self._header(first)

    def _first_row(self) -> list[str]:
        with open_text(self.path, self.encoding) as file:
            return next(self._csv(file), [])

    def _parted(self, first: list[str], width: int) -> list[str]:
        """The first row by the separator that parts it, into `width` cells where that is known; else as it was."""
        own = self._separator, self._quoted
        for self._separator in OTHERS:
            self._quoted = self._separator != "\t"
            cells = self._first_row()
            if len(cells) == width or (not width and len(cells) > 1):
                return cells
        self._separator, self._quoted = own
        return first

    def _header(self, cells: Sequence[str]) -> list[str]:
        names: list[str] = []
        for cell in cells:
            name, _, kind = cell.strip().partition(":") if self.kind in RECBOLE else (cell.strip(), "", "")
            if kind.endswith("_seq"):
                self.lists.add(name)
            names.append(name if name not in names else f"{name}.{names.count(name) + 1}")
        return names if any(names) else []

    def _csv(self, file: TextIO) -> Any:
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self._quoted else csv.QUOTE_NONE
        return csv.reader(file, delimiter=self._separator, quoting=quoting)

    def chunks(self, wanted: Sequence[str], size: int) -> Iterator[Chunk]:
        places, width = [self.columns.index(name) for name in wanted], len(self.columns)
        with open_text(self.path, self.encoding) as file:
            reader = self._csv(file)
            if self._has_header:
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
        separator = self._separator
        lines = separator.join(row).split("\n")
        first = last - len(lines) + 1
        reason = f"{len(row)} columns where the header has {width}"
        if len(lines) > 1:
            reason = "a quote is opened and not closed on this line"
        whole, broken = [], [BrokenRow(first, reason, lines[0])]
        for number, line in enumerate(lines[1:], first + 1):
            cells = line.rstrip("\r").split(separator)
            if len(cells) == width:
                whole.append((number, cells))
            elif line.strip():
                broken.append(BrokenRow(number, f"{len(cells)} columns where the header has {width}", line))
        return whole, broken


def _is_quoted(cell: str) -> bool:
    cell = cell.strip()
    return len(cell) > 2 and cell[0] == cell[-1] == '"'


def _line_numbers(rows: list[list[str]], before: int, last: int) -> Sequence[int]:
    """The line each row ends on; quoted line breaks are counted, in the rare file that has them."""
    if last - before == len(rows):
        return range(before + 1, last + 1)
    numbers = []
    for row in rows:
        before += 1 + sum(cell.count("\n") for cell in row)
        numbers.append(before)
    return numbers
