"""Ingest: folds batches of behaviours and commits each as one transaction. The store is the truth.

Memory holds the caches of recently seen users only; anyone else's is restored from the store on demand. A failed commit
drops them all, so memory never runs ahead of the store for longer than the batch in hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from interest.errors import StoreError
from interest.sql import insert_new, upsert, writing
from interest.tables import behaviors, partitions
from interest.types import Behavior, Item, Partition
from streams.append import append_behaviors
from streams.fold import DUPLICATE, LATE, Cache, fold, sweep
from streams.policy import Policy, token_cost
from streams.restore import restore_caches
from streams.tables import offsets, policies

_AT = attrgetter("at")
HOT_BEHAVIORS = 1_000_000  # identities in each of two generations: about 40 bytes each, and 300 a user


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far one source has been read, and what became of its rows."""

    offset: int = 0  # rows consumed, rejected ones included
    digest: str = ""  # of the consumed rows, where the source is a file
    watermark: float | None = None  # the greatest event time consumed
    accepted: int = 0
    late: int = 0
    duplicates: int = 0
    rejected: int = 0


class Folded(msgspec.Struct, kw_only=True):
    """A batch after folding: what its transaction will write."""

    rows: list[Any]  # one flat list of values, in the order of streams.append.COLUMNS: no tuple a row to collect
    accepted: int
    closed: list[Partition]
    late: int
    duplicates: int
    watermark: float | None


class Ingest:
    """One writer of behaviours and partitions. Not thread-safe: `fold` in one thread, `commit` in at most one other."""

    def __init__(
        self, engine: Engine, policy: Policy, *, items: Mapping[str, Item] | None = None, hot: int = HOT_BEHAVIORS
    ) -> None:
        self.engine, self.policy = engine, policy
        self._items = items or {}
        self._hot_limit = hot
        self._young: dict[str, Cache] = {}
        self._old: dict[str, Cache] = {}
        self._held = 0  # behaviours whose identities `_young` holds
        with writing(engine) as connection:
            _check_policy(connection, policy)
            # in a store without behaviours no user need be looked for, until one is dropped from memory
            self._complete = connection.execute(select(behaviors.c.user_id).limit(1)).first() is None

    def position(self, source: str, partition: int = 0) -> Position:
        """Where to go on reading `source`."""
        query = select(offsets).where(offsets.c.source == source, offsets.c.partition == partition)
        with self.engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return Position(**{name: row[name] for name in Position.__struct_fields__}) if row else Position()

    def fold(self, batch: Sequence[Behavior]) -> Folded:
        """Fold a batch into the users' caches, restoring those that memory lacks."""
        self._bring({behavior.user_id for behavior in batch})
        caches, policy, items = self._young, self.policy, self._items
        costs = policy.tokens is not None
        rows: list[Any] = []
        closed: list[Partition] = []
        count = late = duplicates = tokens = 0
        for behavior in batch:
            user_id = behavior.user_id
            before = caches[user_id]
            if costs:
                tokens = token_cost(behavior, items.get(behavior.item_id))
            caches[user_id], verdict, ended = fold(before, behavior, policy, tokens)
            if verdict is DUPLICATE:
                duplicates += 1
                continue
            if verdict is LATE:
                late += 1
            count += 1
            rows += (
                user_id, before.first_seq + len(before.open), behavior.item_id, behavior.action, behavior.at,
                behavior.value, behavior.scene, behavior.event_id,
            )  # fmt: skip
            if ended:
                closed += ended
        self._held += count
        watermark = max(map(_AT, batch), default=None)
        return Folded(rows=rows, accepted=count, closed=closed, late=late, duplicates=duplicates, watermark=watermark)

    def commit(
        self,
        folded: Folded,
        source: str,
        before: Position,
        offset: int,
        *,
        rejected: int,
        digest: str = "",
        partition: int = 0,
    ) -> Position:
        """Write one batch; return the source's new position. `rejected` counts the source's rejected rows so far.

        1. advance the offset by compare-and-set: a writer that is no longer the only one stops here;
        2. append the behaviours;
        3. insert the closed partitions;
        4. commit: all of it, or none.
        """
        after = Position(
            offset=offset,
            digest=digest,
            watermark=max((mark for mark in (before.watermark, folded.watermark) if mark is not None), default=None),
            accepted=before.accepted + folded.accepted,
            late=before.late + folded.late,
            duplicates=before.duplicates + folded.duplicates,
            rejected=rejected,
        )
        try:
            with writing(self.engine) as connection:
                _advance(connection, source, partition, before, after)  # 1
                append_behaviors(connection, folded.rows)  # 2
                insert_partitions(connection, folded.closed)  # 3
        except IntegrityError as error:
            self.drop()
            raise StoreError(
                "another process writes behaviours of the same users into this store; "
                "stop one of them and run the same command again, it goes on from the last commit"
            ) from error
        except BaseException:
            self.drop()
            raise
        return after

    def sweep(self, watermark: float) -> int:
        """Close the caches whose gap or calendar span has passed by `watermark`; return how many.

        Walks the store's users in order of their id, so that memory stays bounded.
        """
        closed, last = 0, ""
        if self.policy.gap_s is None and self.policy.span is None:
            return 0
        while True:
            query = select(behaviors.c.user_id).where(behaviors.c.user_id > last).distinct().order_by("user_id")
            with self.engine.connect() as connection:
                names = list(connection.execute(query.limit(5000)).scalars())
                caches = restore_caches(connection, names, self.policy, self._items)
            if not names:
                return closed
            swept = [sweep(cache, watermark, self.policy)[1] for cache in caches.values()]
            found = [partition for partition in swept if partition is not None]
            with writing(self.engine) as connection:
                insert_partitions(connection, found)
            closed, last = closed + len(found), names[-1]
            self.drop()

    def drop(self) -> None:
        """Forget what memory holds; the store has it."""
        self._young, self._old, self._held, self._complete = {}, {}, 0, False

    def _bring(self, users: set[str]) -> None:
        if self._held > self._hot_limit:  # the users not seen for a whole generation are let go
            self._complete = self._complete and not self._old
            self._old, self._young, self._held = self._young, {}, 0
        missing = []
        for user_id in users - self._young.keys():
            cache = self._old.pop(user_id, None)
            if cache is not None:
                self._young[user_id] = cache
                self._held += len(cache.open) + len(cache.closed)
            elif self._complete:
                self._young[user_id] = Cache(user_id)
            else:
                missing.append(user_id)
        if missing:
            with self.engine.connect() as connection:
                found = restore_caches(connection, sorted(missing), self.policy, self._items)
            self._young.update(found)
            self._held += sum(len(cache.open) + len(cache.closed) for cache in found.values())


def insert_partitions(connection: Connection, closed: Sequence[Partition]) -> None:
    if closed:
        connection.execute(
            insert(partitions), [{**msgspec.structs.asdict(one), "reason": str(one.reason)} for one in closed]
        )


def _advance(connection: Connection, source: str, partition: int, before: Position, after: Position) -> None:
    values = msgspec.structs.asdict(after)
    if before == Position():
        insert_new(
            connection, offsets, [{"source": source, "partition": partition, **msgspec.structs.asdict(Position())}]
        )
    moved = connection.execute(
        update(offsets)
        .where(offsets.c.source == source, offsets.c.partition == partition, offsets.c.offset == before.offset)
        .values(values)
    )
    if moved.rowcount != 1:
        raise StoreError(
            f"{source} was read on by another process (this one stood at row {before.offset}); nothing was written. "
            "Let the other finish, or stop it and run the same command again"
        )


def _check_policy(connection: Connection, policy: Policy) -> None:
    """A store is partitioned by one policy; another would make partitions that no single policy explains."""
    stored = connection.execute(select(policies.c.policy).where(policies.c.generation == 0)).scalar()
    wanted = msgspec.json.encode(policy).decode()
    empty = connection.execute(select(behaviors.c.user_id).limit(1)).first() is None
    if stored is None or empty:
        upsert(connection, policies, [{"generation": 0, "policy": wanted}])
    elif msgspec.json.decode(stored, type=Policy) != policy:
        raise StoreError(
            f"this store is partitioned by {stored}, not by {wanted}; "
            "use the same options as before, or another --store for the other policy"
        )
