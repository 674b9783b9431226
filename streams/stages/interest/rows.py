"""What the interest stage reads and writes: SQL in threads, a batch at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
from sqlalchemy import Connection, Engine, select, tuple_

from interest.llm.cache import Answers, Unwritten
from interest.store import counters
from interest.store.sql import insert_new, partition_of, upsert, writing
from interest.store.statements import write_statements
from interest.store.tables import interests, partitions
from interest.types import Interest, Outcome, Partition
from interest.write.backlog import Plan, Work, load, read_categories
from interest.write.unchanged import unchanged
from interest.write.writer import interest_of_row, interest_row
from streams.kafka.messages import encode_message, update_of
from streams.store import outbox, tables
from streams.store.invalidate import delete_derived
from streams.store.outbox import Announcement

Key = tuple[str, int, int]  # user_id, generation, index
_FRESH = 20.0  # the catalogue's categories are read again after so many times what reading them took
_FRESH_MIN_S = 1.0


def key_of(partition: Partition | Interest) -> Key:
    return partition.user_id, partition.generation, partition.index


@dataclass(slots=True)
class LoadedPartitions:
    """What the store says of partitions that were announced, by key."""

    works: dict[Key, Work] = field(default_factory=dict)  # to be written
    known: dict[Key, tuple[Partition, Interest]] = field(default_factory=dict)  # written already
    plain: dict[Key, tuple[Work, Interest]] = field(default_factory=dict)  # written without an LLM, to be stored
    forgets: int = 0  # users forgotten so far
    # the others are not in the store


class PartitionLoader:
    """Loads partitions with what their texts rest on. One thread at a time."""

    def __init__(self, engine: Engine, plan: Plan, *, llm: bool) -> None:
        self._engine, self._plan, self._llm = engine, plan, llm
        self._categories: tuple[str, ...] = ()
        self._read_at, self._took = float("-inf"), 0.0

    def load(self, keys: Sequence[Key]) -> LoadedPartitions:
        loaded = LoadedPartitions()
        with self._engine.connect() as connection:
            before = counters.read(connection, counters.FORGETS)
            heads = read_heads(connection, keys)
            loaded.forgets = counters.read(connection, counters.FORGETS)  # after: it explains what was not found
            written = read_interests(connection, heads, self._plan.prompt_version)
            for key in list(heads):
                interest = written.get(key)
                if interest is not None and not is_open(interest, llm=self._llm):
                    loaded.known[key] = (heads.pop(key), interest)
            for generation in {key[1] for key in heads}:
                some = [head for key, head in sorted(heads.items()) if key[1] == generation]
                for work in self._works(connection, some, before):
                    loaded.works[key_of(work.partition)] = work
        return loaded

    def _works(self, connection: Connection, heads: list[Partition], forgets: int) -> list[Work]:
        stale = time.monotonic() - self._read_at >= max(_FRESH_MIN_S, _FRESH * self._took)
        if stale:
            self._read_categories(connection)
        works = load(connection, self._plan, heads, self._categories, forgets)
        named = {name for work in works for title in work.evidence.facts.titles for name in title.categories}
        if not stale and not named <= set(self._categories):  # the catalogue has grown
            self._read_categories(connection)
            works = load(connection, self._plan, heads, self._categories, forgets)
        return works

    def _read_categories(self, connection: Connection) -> None:
        began = time.monotonic()
        self._categories = read_categories(connection)
        self._read_at = time.monotonic()
        self._took = self._read_at - began


@dataclass(frozen=True, slots=True)
class FinishedInterest:
    """An interest to be stored and announced."""

    interest: Interest
    work: Work | None  # what it was written of; None: it was stored before
    place: tuple[int, int]  # Kafka partition and offset of the message it came from


def save(
    engine: Engine,
    finished: Sequence[FinishedInterest],
    sent: Sequence[Announcement],
    answers: tuple[Answers, Unwritten] | None,
    topics: tuple[str, ...],
    *,
    llm: bool,
) -> tuple[list[Announcement], dict[Key, Interest]]:
    """One transaction; returns what is to be announced, in order, and the interests as they are stored.

    1. Hold off `forget`: what a user forgotten while the model wrote had done must not come back.
    2. Remove what was announced after the last transaction.
    3. Write the interests of partitions that are as they were, unless another worker was quicker: then its texts count.
    4. Write their announcements.
    5. Write the model's answers and what they cost.
    """
    with writing(engine) as connection:
        counters.read_locked(connection, counters.FORGETS)  # 1
        outbox.remove_each(connection, sent)  # 2
        heads = read_heads(connection, [key_of(one.interest) for one in finished])
        written = [(one.interest, one.work) for one in finished if one.work is not None]
        same = unchanged(connection, [work for _, work in written])
        fresh = [interest for (interest, _), stays in zip(written, same, strict=True) if stays]
        stored = _write(connection, fresh, llm=llm)  # 3
        stored |= _still_known(connection, [one.interest for one in finished if one.work is None])
        announcements = [
            announcement
            for one in finished
            if (interest := stored.get(key := key_of(one.interest)))
            for announcement in _announcements(interest, heads[key], one.place, topics)
        ]
        insert_new(connection, tables.outbox, [msgspec.structs.asdict(one) for one in announcements])  # 4
        if answers is not None:
            answers[0].write(connection, answers[1])  # 5
    return announcements, stored


def _write(connection: Connection, fresh: Sequence[Interest], *, llm: bool) -> dict[Key, Interest]:
    if not fresh:
        return {}
    version = fresh[0].prompt_version
    keys = [key_of(one) for one in fresh]
    there = read_interests(connection, keys, version)
    replacing = [one for one in fresh if key_of(one) in there and is_open(there[key_of(one)], llm=llm)]
    if replacing:
        delete_derived(connection, replacing)
        upsert(connection, interests, [interest_row(one) for one in replacing])
    new = [one for one in fresh if key_of(one) not in there]
    insert_new(connection, interests, [interest_row(one) for one in new])
    write_statements(connection, [*replacing, *new])
    return read_interests(connection, keys, version)


def _still_known(connection: Connection, known: Sequence[Interest]) -> dict[Key, Interest]:
    return read_interests(connection, map(key_of, known), known[0].prompt_version) if known else {}


def _announcements(
    interest: Interest, partition: Partition, place: tuple[int, int], topics: tuple[str, ...]
) -> list[Announcement]:
    message = encode_message(update_of(interest, partition))
    return [
        Announcement(topic=topic, partition=place[0], offset=place[1], user_id=interest.user_id, message=message)
        for topic in topics
    ]


def is_open(interest: Interest, *, llm: bool) -> bool:
    """Whether a stored text is still to be learnt: one that was written without an LLM by choice, where one is asked
    now."""
    return llm and interest.summary_outcome == Outcome.STATISTICS


def read_heads(connection: Connection, keys: Iterable[Key]) -> dict[Key, Partition]:
    """The partitions of the store, by key."""
    found = {}
    columns = tuple_(partitions.c.user_id, partitions.c.generation, partitions.c.index)
    for some in _slices(keys):
        for row in connection.execute(select(partitions).where(columns.in_(some))).mappings():
            partition = partition_of(row)
            found[key_of(partition)] = partition
    return found


def read_interests(connection: Connection, keys: Iterable[Key], prompt_version: str) -> dict[Key, Interest]:
    found = {}
    columns = tuple_(interests.c.user_id, interests.c.generation, interests.c.index)
    for some in _slices(keys):
        query = select(interests).where(columns.in_(some), interests.c.prompt_version == prompt_version)
        for row in connection.execute(query).mappings():
            interest = interest_of_row(row)
            found[key_of(interest)] = interest
    return found


def _slices(keys: Iterable[Key]) -> list[list[Key]]:
    listed = list(dict.fromkeys(keys))
    return [listed[start : start + 200] for start in range(0, len(listed), 200)]  # below limits on parameters
