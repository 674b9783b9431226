"""What a file of rows is to its readers: named columns, and chunks of them. Knows no format and no meaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec
import pyarrow as pa

from streams.files.text import Column


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
    file: str | None = None  # of a folder: the file in it

    def row(self, index: int) -> dict[str, Any]:
        """One row as read, for the report of a rejected one."""
        return {
            name: column[index].as_py() if isinstance(column, pa.Array) else column[index]
            for name, column in self.columns.items()
        }


class Table(Protocol):
    """One file of one format."""

    columns: list[str]
    lists: set[str]
    decimal_comma: bool  # 1,5 is a number

    def chunks(self, wanted: Sequence[str], size: int) -> Iterator[Chunk]:
        """The file's rows in file order; `wanted` columns are decoded."""
