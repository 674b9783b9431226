"""Replays a historical log through the whole pipeline without Kafka: the same functions, driven by a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
from sqlalchemy import Engine, func, select

from interest.errors import InputError
from interest.store.sql import read_items
from interest.store.tables import partitions
from interest.types import Behavior
from streams.files.catalogue import no_usable_row
from streams.files.old_rules import first_row_then
from streams.files.rejects import RejectWriter
from streams.files.rows import BehaviorLog, Digest, Rows
from streams.files.sort import in_time_order
from streams.ubsp.ingest import Folded, Ingest, Position, fewer_collections
from streams.ubsp.policy import Policy


class Dropped(msgspec.Struct, kw_only=True):
    """The duplicates that one run has dropped."""

    example: Behavior | None = None  # the first event
    events: int = 0  # that repeat another
    names: int = 0  # that were known of their users already

    def add(self, folded: Folded) -> None:
        self.example = self.example or folded.duplicate
        self.events += folded.duplicates - folded.names
        self.names += folded.names


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one log; the figures are of the log as a whole, earlier and interrupted runs included."""

    source: str
    position: Position
    resumed_at: int  # the row this run began with
    was_sorted: bool
    partitions: int  # in the store
    rejects: RejectWriter
    dropped: Dropped
    policy: Policy  # the store's


def source_name(log: BehaviorLog) -> str:
    """The log's name in `offsets`, from its first usable row: it stays when the file is renamed or grows."""
    return _name_of(log.first_row())


def source_name_then(log: BehaviorLog) -> str | None:
    """Its name by the reading rules before versions, where that was another; None: the same, or it had none."""
    row = first_row_then(log)
    return _name_of(row) if row and _name_of(row) != source_name(log) else None


def _name_of(first_row: str) -> str:
    return f"log:{hashlib.blake2b(first_row.encode(errors='replace'), digest_size=8).hexdigest()}"


def replay(
    engine: Engine,
    log: BehaviorLog,
    policy: Policy,
    *,
    rejects: RejectWriter | None = None,
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
    if not before.offset:
        _refuse_other_rules(ingest, log)
    was_sorted, rows = in_time_order(log)
    advance = started(log.rows, before.offset + before.rejected, was_sorted)
    dropped = Dropped()
    with rejects or RejectWriter(log.path) as writer:
        digest = Digest()
        after = _drive(ingest, source, before, _from(rows, before, log, digest), writer, advance, digest, dropped)
    if not after.offset:
        raise no_usable_row(log.path, writer)
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
        rejects=writer,
        dropped=dropped,
        policy=ingest.policy,
    )


def _refuse_other_rules(ingest: Ingest, log: BehaviorLog) -> None:
    then = source_name_then(log)
    if then is not None and (position := ingest.position(then)).offset:
        raise InputError(
            f"{log.path} was replayed into this store up to row {position.offset:,} by an earlier version, which read "
            "its cells or its times otherwise; replay it into another --store, where today's rules read it from its "
            "beginning"
        )


def _drive(
    ingest: Ingest,
    source: str,
    position: Position,
    chunks: Iterator[tuple[Rows, int]],
    rejects: RejectWriter,
    advance: Callable[[int], None],
    digest: Digest,
    dropped: Dropped,
) -> Position:
    """Fold the next chunk while the last one is written: one thread each, never more than one batch ahead."""
    with fewer_collections(), ThreadPoolExecutor(1, thread_name_prefix="commit") as writer:
        pending: Future[Position] | None = None
        offset, position_rejected = position.offset, position.rejected
        for rows, start in chunks:
            folded = ingest.fold(rows.behaviors(start))
            dropped.add(folded)
            offset += len(rows) - start
            digest.add(rows, start, len(rows))
            again = max(position_rejected - rejects.count, 0)  # counted by an earlier run
            rejects.add(rows.rejected)
            if pending is not None:
                position = pending.result()
            if _changes(folded, offset, rejects.count, position):
                pending = writer.submit(
                    ingest.commit, folded, source, position, offset, rejected=rejects.count, digest=digest.text()
                )
            advance(len(rows) - start + max(len(rows.rejected) - again, 0))
        return pending.result() if pending is not None else position


def _changes(folded: Folded, offset: int, rejected: int, position: Position) -> bool:
    return bool(folded.rows) or bool(folded.offers) or offset != position.offset or rejected > position.rejected


def _from(rows: Iterator[Rows], position: Position, log: BehaviorLog, digest: Digest) -> Iterator[tuple[Rows, int]]:
    """The chunks with the place in each from which its rows are new; a log that is not what it was is refused."""
    left = position.offset
    for chunk in rows:
        start = min(left, len(chunk))
        left -= start
        digest.add(chunk, 0, start)
        if start and not left and not digest.matches(position.digest):
            break
        yield chunk, start
    else:
        if not left:
            return
    known = f"; a store that was filled without {', '.join(log.entities)} goes on with --no-entities"
    raise InputError(
        f"{log.path} is not what it was: its first {position.offset:,} rows in order of time have been replayed into "
        "this store, and they have changed since, or are read by other rules now. Rows "
        "may be appended if they are no older than the last one; for "
        "anything else put the old file back, or replay the new one into another --store"
        f"{known if log.entities else ''}"
    )
