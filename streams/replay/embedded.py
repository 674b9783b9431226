"""Replays a historical log through the whole pipeline without Kafka: the same functions, driven by a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
from sqlalchemy import Engine, func, select

from interest.errors import InputError
from interest.store.sql import read_items
from interest.store.tables import partitions
from streams.files.rows import BehaviorLog, Digest, RejectedRow, Rows, refuse
from streams.files.sort import in_time_order
from streams.ubsp.ingest import Folded, Ingest, Position, fewer_collections
from streams.ubsp.policy import Policy


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one log; the figures are of the log as a whole, earlier and interrupted runs included."""

    source: str
    position: Position
    resumed_at: int  # the row this run began with
    was_sorted: bool
    partitions: int  # in the store
    rejected_file: Path | None


def source_name(log: BehaviorLog) -> str:
    """The log's name in `offsets`, from its first usable row: it stays when the file is renamed or grows."""
    return f"log:{hashlib.blake2b(log.first_row().encode(errors='replace'), digest_size=8).hexdigest()}"


def replay(
    engine: Engine,
    log: BehaviorLog,
    policy: Policy,
    *,
    strict: bool = False,
    started: Callable[[int, int, bool], Callable[[int], None]] = lambda _rows, _done, _sorted: lambda _count: None,
) -> Replayed:
    """Fold the log's behaviours into the store, from where the last run stopped.

    `started(rows, done, was_sorted)` is called with the work there is and returns what to call with newly done rows.
    Every transaction holds one chunk's behaviours, partitions and the offset after it: a run killed anywhere, run
    again, leaves the store as if nothing had happened.
    """
    with engine.connect() as connection:
        items = read_items(connection) if policy.tokens is not None else {}
    ingest = Ingest(engine, policy, items=items)
    source = source_name(log)
    before = ingest.position(source)
    was_sorted, rows = in_time_order(log)
    advance = started(log.rows, before.offset + before.rejected, was_sorted)
    with RejectWriter(log.path, strict=strict) as rejects:
        digest = Digest()
        after = _drive(ingest, source, before, _from(rows, before, log, digest), rejects, advance, digest)
    if after.watermark is not None:
        ingest.sweep(after.watermark)
    with engine.connect() as connection:
        count = connection.execute(select(func.count()).select_from(partitions)).scalar_one()
    return Replayed(
        source=source,
        position=after,
        resumed_at=before.offset,
        was_sorted=was_sorted,
        partitions=count,
        rejected_file=rejects.path if rejects.count else None,
    )


def _drive(
    ingest: Ingest,
    source: str,
    position: Position,
    chunks: Iterator[tuple[Rows, int]],
    rejects: RejectWriter,
    advance: Callable[[int], None],
    digest: Digest,
) -> Position:
    """Fold the next chunk while the last one is written: one thread each, never more than one batch ahead."""
    with fewer_collections(), ThreadPoolExecutor(1, thread_name_prefix="commit") as writer:
        pending: Future[Position] | None = None
        offset = position.offset
        for rows, start in chunks:
            folded = ingest.fold(rows.behaviors(start))
            offset += len(rows) - start
            digest.add(rows, start, len(rows))
            rejects.add(rows.rejected)
            if pending is not None:
                position = pending.result()
            if _changes(folded, offset, rejects.count, position):
                pending = writer.submit(
                    ingest.commit, folded, source, position, offset, rejected=rejects.count, digest=digest.text()
                )
            advance(len(rows) - start + len(rows.rejected))
        return pending.result() if pending is not None else position


def _changes(folded: Folded, offset: int, rejected: int, position: Position) -> bool:
    return bool(folded.rows) or offset != position.offset or rejected > position.rejected


def _from(rows: Iterator[Rows], position: Position, log: BehaviorLog, digest: Digest) -> Iterator[tuple[Rows, int]]:
    """The chunks with the place in each from which its rows are new; a log that is not what it was is refused."""
    left = position.offset
    for chunk in rows:
        start = min(left, len(chunk))
        left -= start
        digest.add(chunk, 0, start)
        if start and not left and digest.text() != position.digest:
            break
        yield chunk, start
    else:
        if not left:
            return
    raise InputError(
        f"{log.path} is not what it was: its first {position.offset:,} rows in order of time have been replayed into "
        "this store, and they have changed since. Rows may be appended if they are no older than the last one; for "
        "anything else put the old file back, or replay the new one into another --store"
    )


class RejectWriter:
    """Writes rejected rows beside the log, anew in each run: reading the log again finds the same ones."""

    def __init__(self, log: Path, *, strict: bool) -> None:
        self.path = log.with_name(log.name + ".rejected.jsonl")
        self.strict, self.count = strict, 0

    def __enter__(self) -> RejectWriter:
        self.path.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        return

    def add(self, rejected: list[RejectedRow]) -> None:
        if not rejected:
            return
        if self.strict:
            raise refuse(rejected[0])
        with self.path.open("ab") as file:
            file.writelines(msgspec.json.encode(_printable(one)) + b"\n" for one in rejected)
        self.count += len(rejected)


def _printable(rejected: RejectedRow) -> RejectedRow:
    """The row as JSON can hold it: bytes that were not UTF-8 are shown as \\xNN, NaN as text."""

    def shown(value: object) -> object:
        if isinstance(value, str):
            return value.encode(errors="surrogateescape").decode(errors="backslashreplace")
        return value if isinstance(value, int | bool | None) else str(value)

    row = rejected.row
    readable = {name: shown(value) for name, value in row.items()} if isinstance(row, dict) else shown(row)
    return msgspec.structs.replace(rejected, row=readable)
