"""Rows of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from streams.files.table import Chunk
from streams.files.text import Column

SUFFIXES = (".parquet", ".pq")


class ParquetFile:
    """One file; a row's line is its number, from 1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lists: set[str] = set()
        self.decimal_comma = False
        self.columns = [str(name) for name in pq.read_schema(path).names]

    def chunks(self, wanted: Sequence[str], size: int) -> Iterator[Chunk]:
        first = 1
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=size, columns=list(wanted), use_threads=False):
                columns: dict[str, Column] = {name: batch.column(name) for name in wanted}
                yield Chunk(columns, range(first, first + len(batch)), [])
                first += len(batch)
