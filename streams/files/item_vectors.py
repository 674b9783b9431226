"""Files of items' vectors: Parquet with the columns item_id and vector, all of one width. Read, and written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from interest.errors import InputError
from interest.types import MAX_ID

ROWS = 2_000  # read and written at once: 2 MB of vectors 512 wide
LARGEST = 65_504.0  # of a half-precision number, as which they are stored
LEAST = 2.0**-14  # below it half precision loses digits, and from 3e-8 on the number
MOST = 16_384  # of a width
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
COLUMNS = ("item_id", "vector")
RESERVED = ("text",)  # the store's own


class Found(NamedTuple):
    """What a file's vectors are of, and whether they tell items apart."""

    items: set[str]
    zeros: int  # vectors that are 0
    same: bool  # all vectors are one
    repeated: int  # rows whose item a later row has as well


class VectorFile(NamedTuple):
    """One modality's file, its columns checked."""

    modality: str
    path: Path
    rows: int
    width: int

    def chunks(self) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        """Items and their vectors (n, width). A row without a vector is left out: the item has none.

        Raises InputError, with the row, for one that cannot be used.
        """
        for ids, vectors in self._batches():
            last = {item: row for row, item in enumerate(ids)}  # of two rows of an item the later counts
            rows = sorted(last.values())
            yield [ids[row] for row in rows], vectors[rows]

    def _batches(self) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        done = 0
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=ROWS, columns=list(COLUMNS), use_threads=False):
                ids, there, vectors = self._read(batch, done + 1)
                done += len(batch)
                kept = np.flatnonzero(there)
                yield [ids[row] for row in kept], vectors[kept]

    def found(self) -> Found:
        """Reads the file once. Raises InputError as `chunks` does."""
        items, rows, zeros, same = set[str](), 0, 0, True
        first: npt.NDArray[np.float32] | None = None
        for ids, vectors in self._batches():
            items.update(ids)
            rows += len(ids)
            zeros += int((~vectors.any(axis=1)).sum())
            if len(vectors):
                first = vectors[0] if first is None else first
                same = same and bool((vectors == first).all())
        return Found(items, zeros, same, rows - len(items))

    def _read(self, batch: Any, first: int) -> tuple[list[str], npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        ids = batch.column("item_id").cast(pa.string()).to_pylist()
        for row, item in enumerate(ids, first):
            if not item or "\0" in item or len(item.encode()) > MAX_ID:
                raise InputError(f"{self.path}, row {row}: item_id is empty or no id; write the catalogue's")
        column = batch.column("vector")
        there = np.array(column.is_valid())
        out = np.zeros((len(batch), self.width), np.float32)
        for row, own in enumerate(column.to_pylist()):
            if own is None:
                continue
            place = f"{self.path}, row {first + row}: the vector of item {ids[row]!r}"
            if len(own) != self.width:
                raise InputError(
                    f"{place} has {len(own)} numbers and the first row's {self.width}; make all of one width"
                )
            if any(number is None for number in own):
                raise InputError(f"{place} has an empty number; leave the whole vector out where there is none")
            out[row] = own
        wrong = ~np.isfinite(out).all(axis=1) | (np.abs(out) > LARGEST).any(axis=1)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"{self.path}, row {first + row}: the vector of item {ids[row]!r} has a number that is not finite, or "
                f"above {LARGEST:,.0f}; scale the vectors"
            )
        largest = np.abs(out).max(axis=1)
        faint = (largest > 0) & (largest < LEAST)
        if faint.any():
            row = int(np.flatnonzero(faint)[0])
            raise InputError(
                f"{self.path}, row {first + row}: the vector of item {ids[row]!r} has no number above {LEAST:.1g}, and "
                "is lost in half precision, as which it is stored; scale the vectors"
            )
        return ids, there, out


def write_item_vectors(path: Path, chunks: Iterable[tuple[list[str], npt.NDArray[np.float32]]], width: int) -> int:
    """Write items and their vectors (n, width) as such a file, which appears once it is whole; return how many.

    Raises InputError where it cannot be written.
    """
    kind = pa.list_(pa.float32(), width)
    partial, done = path.with_name(path.name + ".partial"), 0
    try:
        with pq.ParquetWriter(partial, pa.schema([("item_id", pa.string()), ("vector", kind)])) as file:
            for ids, vectors in chunks:
                flat = pa.array(np.asarray(vectors, np.float32).ravel())
                file.write_table(
                    pa.table({"item_id": ids, "vector": pa.FixedSizeListArray.from_arrays(flat, width)}, file.schema)
                )
                done += len(ids)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return done


def open_vectors(given: str) -> VectorFile:
    """`image=FILE.parquet`. Raises InputError where that is not a file of vectors."""
    name, sign, path = given.partition("=")
    if not sign or not path or not _NAME.fullmatch(name):
        raise InputError(
            f"--item-vectors {given!r} is not NAME=FILE.parquet with a name of small letters; write for example "
            "--item-vectors image=images.parquet"
        )
    if name in RESERVED:
        raise InputError(
            f"--item-vectors {name}=…: that name is of texts' vectors, which `interestream fuse` makes; take another"
        )
    return _opened(name, Path(path))


def _opened(name: str, path: Path) -> VectorFile:
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            missing = [column for column in COLUMNS if column not in schema.names]
            if missing:
                raise InputError(
                    f"{path} has no column {' and no column '.join(missing)}; it has "
                    f"{', '.join(schema.names) or 'none'}. "
                    "A file of vectors has item_id and vector, a list of numbers"
                )
            kind, ids = schema.field("vector").type, schema.field("item_id").type
            listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
            if not listed or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
                raise InputError(f"{path}: column vector is {kind}; it must be a list of numbers")
            if not (pa.types.is_string(ids) or pa.types.is_large_string(ids) or pa.types.is_integer(ids)):
                raise InputError(f"{path}: column item_id is {ids}; ids are texts or whole numbers")
            width = next(
                (
                    len(own)
                    for batch in file.iter_batches(batch_size=ROWS, columns=["vector"])
                    for own in batch.column("vector").to_pylist()
                    if own is not None
                ),
                0,
            )
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"--item-vectors {name}: cannot read {path}: {error}; write it as Parquet") from None
    if not 0 < width <= MOST:
        raise InputError(f"{path}: no row has a vector of 1 to {MOST:,} numbers; every item would be without one")
    return VectorFile(name, path, rows, width)
