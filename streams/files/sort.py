"""External merge sort of a log by event time; a log that is sorted already is streamed.

Rows of one time keep the file's order, so the order is the same in every run. Memory is bounded: one run of rows is
sorted in memory, more are spooled to temporary files and merged block by block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from streams.files.entities import only_first
from streams.files.rejects import RejectedRow
from streams.files.rows import BehaviorLog, Rows
from streams.temporary import temporary_folder

RUN = 1_250_000  # rows sorted in memory at a time: about 100 MB
BLOCK = 20_000  # rows handed on at a time
_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("user_id", "item_id", "action", "scene", "event_id")],
        ("at", pa.float64()),
        ("value", pa.float64()),
        ("row", pa.int64()),  # place in the file: the tie-break
    ]
)


def in_time_order(log: BehaviorLog, *, run: int = RUN, block: int = BLOCK) -> tuple[bool, Iterator[Rows]]:
    """Whether the log is sorted by event time, and its rows in event-time order. Sets `log.rows`."""
    newest, is_sorted = -np.inf, True
    for times in log.times():
        if is_sorted and len(times):
            is_sorted = bool(times[0] >= newest and np.all(times[1:] >= times[:-1]))
            newest = times[-1]
    rows = log.chunks() if is_sorted else _sorted(log.chunks(), run, block)
    return is_sorted, only_first(rows) if log.entities else rows


def _sorted(chunks: Iterable[Rows], run: int, block: int) -> Iterator[Rows]:
    with temporary_folder("sort") as folder:
        files: list[Path] = []
        held: list[pa.RecordBatch] = []
        rejected: list[RejectedRow] = []
        count = first = 0
        for rows in chunks:
            rejected.extend(rows.rejected)
            held.append(_to_arrow(rows, first))
            first += len(rows)
            count += len(rows)
            if count >= run:
                files.append(_spool(_sort(pa.Table.from_batches(held)), folder / f"{len(files)}.arrow", block))
                held, count = [], 0
        table = _sort(pa.Table.from_batches(held, schema=_SCHEMA))
        if files and count:
            files.append(_spool(table, folder / f"{len(files)}.arrow", block))
        del held
        blocks = _merge(files) if files else table.to_batches(max_chunksize=block)
        for batch in blocks:
            for start in range(0, len(batch), block):
                yield _from_arrow(batch.slice(start, block), rejected)
                rejected = []
        if rejected:
            yield _from_arrow(table.slice(0, 0).combine_chunks(), rejected)


def _sort(table: pa.Table) -> pa.Table:
    order = np.lexsort((table["row"].to_numpy(), table["at"].to_numpy()))
    return table.take(pa.array(order)).combine_chunks()


def _spool(table: pa.Table, file: Path, block: int) -> Path:
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_table(table, max_chunksize=block)
    return file


def _merge(files: list[Path]) -> Iterator[pa.Table]:
    """Merge sorted runs: each step hands on all rows not after the earliest of the runs' block ends."""
    readers = [pa.ipc.open_file(pa.memory_map(str(file))) for file in files]
    taken = [0] * len(readers)
    heads: dict[int, pa.Table] = {}
    while True:
        for index, reader in enumerate(readers):
            if index not in heads and taken[index] < reader.num_record_batches:
                heads[index] = pa.Table.from_batches([reader.get_batch(taken[index])])
                taken[index] += 1
        if not heads:
            return
        limit = min((head["at"][-1].as_py(), head["row"][-1].as_py()) for head in heads.values())
        ready = []
        for index, head in list(heads.items()):
            at, row = head["at"].to_numpy(), head["row"].to_numpy()
            count = int(((at < limit[0]) | ((at == limit[0]) & (row <= limit[1]))).sum())
            ready.append(head.slice(0, count))
            if count == len(head):
                del heads[index]
            else:
                heads[index] = head.slice(count)
        yield _sort(pa.concat_tables(ready))


def _to_arrow(rows: Rows, first: int) -> pa.RecordBatch:
    columns: list[Any] = [rows.user_id, rows.item_id, rows.action, rows.scene, rows.event_id, rows.at, rows.value]
    columns.append(np.arange(first, first + len(rows)))
    return pa.record_batch(
        [pa.array(column, type=field.type) for column, field in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA
    )


def _from_arrow(batch: pa.RecordBatch | pa.Table, rejected: list[RejectedRow]) -> Rows:
    def text(name: str) -> list[Any]:
        column = batch.column(name)
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        coded = column.dictionary_encode()
        names: list[str] = coded.dictionary.to_pylist()
        return [names[index] if index is not None else None for index in coded.indices.to_pylist()]

    at = batch.column("at").to_numpy()
    value = batch.column("value").to_pylist()
    return Rows(
        text("user_id"),
        text("item_id"),
        text("action"),
        at,
        value,
        text("scene"),
        text("event_id"),
        rejected,
    )
