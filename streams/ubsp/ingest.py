"""Ingest: folds batches of behaviours and commits each as one transaction. The store is the truth.

Memory holds the caches of recently seen users only; anyone else's is restored from the store on demand. After a failed
commit they are dropped, so memory never runs ahead of the store for longer than the batches in hand.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy import text as sql
from sqlalchemy.exc import IntegrityError

from interest.errors import StoreError
from interest.store import counters
from interest.store.sql import insert_new, upsert, writing
from interest.store.tables import behaviors, offers, partitions
from interest.types import OFFERED, Behavior, Item, Partition
from streams.store import outbox
from streams.store.outbox import Announcement
from streams.store.tables import offsets, policies
from streams.ubsp.bulk_insert import append_behaviors
from streams.ubsp.fold import DUPLICATE, IDENTITY_BYTES, LATE
from streams.ubsp.folding import USER_BYTES, folding_of
from streams.ubsp.known_names import NAME_BYTES, KnownNames, is_name
from streams.ubsp.policy import Dedupe, Policy, Scenes, as_options, as_settings, as_stored, token_cost

_AT = attrgetter("at")
MEMORY_MB = 256  # as the setting INTERESTREAM_INGEST_MEMORY_MB
SWEPT_USERS = 5_000  # of one step of a sweep: 50 to 100 ms

# A walk over the distinct ids, one index seek each: as quick with ten rows a user as with ten thousand.
_USERS_AFTER = sql("""
    with recursive ids (id) as (
        select min(user_id) from behaviors where user_id > :last
        union all
        select (select min(user_id) from behaviors where user_id > ids.id) from ids where ids.id is not null
    )
    select id from ids where id is not null limit :most
""")


class FencedError(StoreError):
    """Another writer has read the source on; nothing was written."""


class ForgottenError(StoreError):
    """A user was forgotten since memory was loaded; nothing was written."""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far one source has been read, and what became of its rows."""

    offset: int = 0  # rows consumed, rejected ones included; of a topic: the next offset to read
    digest: str = ""  # of the consumed rows, where the source is a file; a topic's id
    watermark: float | None = None  # the greatest event time consumed
    accepted: int = 0
    late: int = 0
    duplicates: int = 0
    rejected: int = 0


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """One Kafka partition's step (a file is one partition); before == after only proves that nobody else has moved."""

    source: str
    partition: int = 0
    before: Position
    after: Position


class Folded(msgspec.Struct, kw_only=True):
    """A batch after folding: what its transaction will write."""

    rows: list[Any]  # one flat list of values, in the order of bulk_insert's COLUMNS: no tuple a row to collect
    accepted: int
    closed: list[Partition]
    closers: list[int]  # for each closed partition, the place in the batch of the behaviour that closed it
    late: int
    duplicates: int
    watermark: float | None
    duplicate: Behavior | None = None  # the first event that was dropped: an example
    names: int = 0  # of the duplicates: names that were known of their users already
    offers: list[dict[str, Any]] = msgspec.field(default_factory=list)  # rows of the table: no history, no partitions

    def after(self, before: Position, offset: int, *, rejected: int, digest: str) -> Position:
        """The position once this is written. `rejected` counts the source's rejected rows so far."""
        return Position(
            offset=offset,
            digest=digest,
            watermark=max((mark for mark in (before.watermark, self.watermark) if mark is not None), default=None),
            accepted=before.accepted + self.accepted,
            late=before.late + self.late,
            duplicates=before.duplicates + self.duplicates,
            rejected=rejected,
        )


class Ingest:
    """One writer of behaviours and partitions. Not thread-safe: fold in one thread, write in at most one other."""

    def __init__(
        self, engine: Engine, policy: Policy, *, items: Mapping[str, Item] | None = None, memory: int = MEMORY_MB << 20
    ) -> None:
        """`memory`: bytes that users' caches may take, about; the users not seen for longest are let go."""
        self.engine = engine
        self.items: dict[str, Item] = dict(items or {})  # only a token policy reads them
        self._limit = memory // 2  # of each of two generations
        with writing(engine) as connection:
            self.policy = _settled_policy(connection, policy)
            self._folding = folding_of(self.policy)
            counters.read_locked(connection, counters.FORGETS)  # so that the row is there
        self.load()

    def load(self) -> None:
        """Start with an empty memory, as of now."""
        self.drop()
        with self.engine.connect() as connection:
            self._forgets = counters.read(connection, counters.FORGETS)
            # in a store without behaviours no user need be looked for, until one is dropped from memory
            self._complete = connection.execute(select(behaviors.c.user_id).limit(1)).first() is None

    def drop(self) -> None:
        """Empty the memory; the store has it all."""
        self._young: dict[str, Any] = {}  # by user, what `folding_of` the policy holds
        self._old: dict[str, Any] = {}
        self._names = KnownNames()
        self._held = 0  # bytes of `_young` and the names, about
        self._complete = False

    def position(self, source: str, partition: int = 0) -> Position:
        """Where to go on reading `source`."""
        query = select(offsets).where(offsets.c.source == source, offsets.c.partition == partition)
        with self.engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return Position(**{name: row[name] for name in Position.__struct_fields__}) if row else Position()

    def fold(self, batch: Sequence[Behavior]) -> Folded:
        """Fold a batch into the users' caches, restoring those that memory lacks."""
        return self.fold_all([batch])[0]

    def fold_all(self, batches: Sequence[Sequence[Behavior]]) -> list[Folded]:
        """Fold batches that one transaction will write, each counted for itself."""
        # together: a generation of memory is let go once a transaction at most, so what is being written stays known
        self._bring_caches({behavior.user_id for batch in batches for behavior in batch})
        self._bring_names(chain.from_iterable(batches))
        return [self._fold(batch) for batch in batches]

    def _fold(self, batch: Sequence[Behavior]) -> Folded:
        caches, policy, items, fold = self._young, self.policy, self.items, self._folding.fold
        joined = policy.scenes is Scenes.JOINED
        costs = policy.tokens is not None
        rows: list[Any] = []
        closed: list[Partition] = []
        closers: list[int] = []
        count = late = duplicates = known = tokens = names = 0
        duplicate: Behavior | None = None
        offered: list[dict[str, Any]] = []
        for place, behavior in enumerate(batch):
            user_id = behavior.user_id
            before = caches[user_id]
            if behavior.action == OFFERED:
                offered.append(_offer(behavior, before.next_seq))
                continue
            if behavior.event_id is not None and is_name(behavior):
                if not self._names.add(behavior):
                    known += 1
                    continue
                names += 1
            if costs:
                tokens = token_cost(behavior, items.get(behavior.item_id))
            caches[user_id], verdict, ended = fold(before, behavior, policy, tokens)
            if verdict is DUPLICATE:
                duplicates += 1
                duplicate = duplicate or behavior
                continue
            if verdict is LATE:
                late += 1
            count += 1
            rows += (
                user_id,  # its next_seq, a joined cache's without the call
                before.first_seq + len(before.open) // IDENTITY_BYTES if joined else before.next_seq,
                behavior.item_id, behavior.action, behavior.at, behavior.value, behavior.scene, behavior.event_id,
            )  # fmt: skip
            if ended:
                closed += ended
                closers += [place] * len(ended)
        self._held += count * IDENTITY_BYTES + names * NAME_BYTES
        watermark = max(map(_AT, batch), default=None)
        return Folded(
            rows=rows, accepted=count, closed=closed, closers=closers, late=late, duplicates=duplicates + known,
            watermark=watermark, duplicate=duplicate, names=known, offers=offered,
        )  # fmt: skip

    def write(
        self,
        moves: Iterable[Move],
        folded: Sequence[Folded] = (),
        *,
        swept: Sequence[Partition] = (),
        acknowledged: Sequence[Announcement] = (),
        announcements: Sequence[Announcement] = (),
        also: Callable[[Connection], None] | None = None,
    ) -> None:
        """Write what was folded, in one transaction. After a failure memory is ahead of the store: `load` again.

        1. advance every offset by compare-and-set: a writer that is no longer the only one stops here;
        2. see that nobody was forgotten since memory was loaded;
        3. delete what the outbox has sent;
        4. append the behaviours, and the offers that nobody took;
        5. insert the closed partitions;
        6. write the partitions' announcements into the outbox, and what else the caller has;
        7. commit: all of it, or none.

        Raises FencedError, ForgottenError, and SQLAlchemy's IntegrityError where another wrote the same users' rows.
        """
        with writing(self.engine) as connection:
            for move in sorted(moves, key=lambda one: (one.source, one.partition)):  # in one order: no deadlock
                _advance(connection, move)  # 1
            if counters.read_locked(connection, counters.FORGETS) != self._forgets:  # 2
                raise ForgottenError(
                    "a user was forgotten while behaviours were being read; nothing of this batch was written. "
                    "Run the same command again, it goes on from the last commit"
                )
            outbox.remove(connection, acknowledged)  # 3
            rows = folded[0].rows if len(folded) == 1 else list(chain.from_iterable(one.rows for one in folded))
            append_behaviors(connection, rows)  # 4
            insert_new(connection, offers, [offer for one in folded for offer in one.offers])
            insert_partitions(connection, [*chain.from_iterable(one.closed for one in folded), *swept])  # 5
            outbox.add(connection, announcements)  # 6
            if also is not None:
                also(connection)

    def commit(
        self, folded: Folded, source: str, before: Position, offset: int, *, rejected: int, digest: str = ""
    ) -> Position:
        """Write one batch of a source that has one partition and announces nothing; return its new position."""
        after = folded.after(before, offset, rejected=rejected, digest=digest)
        try:
            self.write([Move(source=source, before=before, after=after)], [folded])
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

        Walks the store's users in order of their id, so that memory stays bounded; what it holds is dropped.
        """
        self.drop()
        closed, last = 0, ""
        while self.policy.sweeps:
            swept, names = self.sweep_stored(watermark, last)
            if not names:
                break
            if swept:
                self.write((), swept=swept)
            closed, last = closed + len(swept), names[-1]
        return closed

    def sweep_held(self, watermark: float, mine: Callable[[str], bool]) -> list[Partition]:
        """Close what has passed of the users in memory that are `mine`; the caller writes it before anything else."""
        swept: list[Partition] = []
        for held in (self._young, self._old):
            for user_id, cache in held.items():
                after, closed = self._folding.sweep(cache, watermark, self.policy)
                if closed and mine(user_id):
                    held[user_id] = after  # the key is there: no change of the dict's size
                    swept += closed
        return swept

    def sweep_stored(
        self, watermark: float, last: str, mine: Callable[[str], bool] = lambda _user: True
    ) -> tuple[list[Partition], list[str]]:
        """What has passed of the next users of the store after `last` that memory does not hold; and their names."""
        with self.engine.connect() as connection:
            names = list(connection.scalars(_USERS_AFTER, {"last": last, "most": SWEPT_USERS}))
            chosen = [name for name in names if name not in self._young and name not in self._old and mine(name)]
            caches = self._folding.restore(connection, chosen, self.policy, self.items)
        swept = [self._folding.sweep(cache, watermark, self.policy)[1] for cache in caches.values()]
        return list(chain.from_iterable(swept)), names

    def _bring_caches(self, users: set[str]) -> None:
        if self._held > self._limit:  # the users not seen for a whole generation are let go
            self._complete = self._complete and not self._old
            self._old, self._young, self._held = self._young, {}, 0
            self._names.let_go()
        missing = []
        for user_id in users - self._young.keys():
            cache = self._old.pop(user_id, None)
            if cache is not None:
                self._young[user_id] = cache
                self._held += self._folding.size(cache)
            elif self._complete:
                self._young[user_id] = self._folding.empty(user_id)
                self._held += USER_BYTES
            else:
                missing.append(user_id)
        if missing:
            with self.engine.connect() as connection:
                restored = self._folding.restore(connection, sorted(missing), self.policy, self.items)
            self._young.update(restored)
            self._held += sum(map(self._folding.size, restored.values()))

    def _bring_names(self, batch: Iterable[Behavior]) -> None:
        if missing := self._names.missing(batch):
            with self.engine.connect() as connection:
                self._held += NAME_BYTES * self._names.restore(connection, missing)


@contextmanager
def fewer_collections() -> Iterator[None]:
    """Folding makes millions of small values and no cycles: looking for cycles less often saves a sixth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def insert_partitions(connection: Connection, closed: Sequence[Partition]) -> None:
    if closed:
        connection.execute(
            insert(partitions), [{**msgspec.structs.asdict(one), "reason": str(one.reason)} for one in closed]
        )


def _advance(connection: Connection, move: Move) -> None:
    place = {"source": move.source, "partition": move.partition}
    if move.before == Position():
        insert_new(connection, offsets, [{**place, **msgspec.structs.asdict(move.before)}])
    there = [offsets.c[name] == value for name, value in place.items()]
    stands = (offsets.c.offset == move.before.offset, offsets.c.digest == move.before.digest)
    values = msgspec.structs.asdict(move.after)
    if connection.execute(update(offsets).where(*there, *stands).values(values)).rowcount != 1:
        raise FencedError(
            f"{move.source} was read on by another process (this one stood at row {move.before.offset} of partition "
            f"{move.partition}); nothing was written. Let the other finish, or stop it and run the same command again"
        )


def _settled_policy(connection: Connection, policy: Policy) -> Policy:
    """The policy that the store keeps with its generation: the one asked for in a store without behaviours.

    Another would make partitions that no single policy explains. A store older than the rules of duplicates goes on by
    the one it was made with.
    """
    stored = connection.execute(select(policies.c.policy).where(policies.c.generation == 0)).scalar()
    empty = connection.execute(select(behaviors.c.user_id).limit(1)).first() is None
    if stored is None or empty:
        chosen = msgspec.structs.replace(policy, dedupe=policy.dedupe or Dedupe.AUTO)
        upsert(connection, policies, [{"generation": 0, "policy": as_stored(chosen)}])
        return chosen
    before = msgspec.json.decode(stored, type=Policy)
    if before.dedupe is None:
        before = msgspec.structs.replace(before, dedupe=Dedupe.TIME)
    asked = msgspec.structs.replace(policy, dedupe=policy.dedupe or before.dedupe)
    if before != asked:
        raise StoreError(
            f"this store is partitioned by {as_options(before)}, not by {as_options(asked)}. Give `replay` the "
            f"former again (an agent: {as_settings(before)}), or name another --store for the other policy"
        )
    return before


def _offer(behavior: Behavior, seq: int) -> dict[str, Any]:
    """seq: how many of the user's behaviours came before it."""
    return {
        "user_id": behavior.user_id, "at": behavior.at, "item_id": behavior.item_id, "scene": behavior.scene or "",
        "seq": seq, "value": behavior.value,
    }  # fmt: skip
