"""When the ingest stage closes caches by event time alone, and whose: users of the Kafka partitions that it has.

A user's partition is that of Kafka's own partitioner (murmur2): producers must use it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache

from sqlalchemy import Engine, func, select

from interest.types import Partition
from streams.stages.consumer.assignment import KafkaPartition
from streams.stages.ingest.batch import SWEPT_N
from streams.store.tables import offsets, source_of
from streams.ubsp.ingest import Ingest, Position

SWEEP_S = 5.0  # between two sweeps while messages come: closing takes gap_s anyway, which is minutes at least


class Sweeps:
    """What has been swept so far. One instance for one assignment: its memory begins with that of Ingest."""

    def __init__(self, ingest: Ingest, topic: str, count: int, places: Collection[KafkaPartition]) -> None:
        self._ingest, self._topic, self._count = ingest, topic, count
        self._mine = {place.partition for place in places if place.topic == topic}
        self._walk = ""  # the store's users up to this id have been looked at in this pass
        self._pass_mark: float | None = None  # the watermark at the beginning of this pass
        self._done_mark = float("-inf")  # at the beginning of the last whole pass
        self._held_mark = float("-inf")  # of the last sweep of memory
        self._numbers: dict[KafkaPartition, tuple[int, int]] = {}  # offset, and the next n at it

    def due(self, watermark: float) -> bool:
        """Whether anything may have passed that was not looked at yet."""
        return watermark > min(self._done_mark, self._held_mark)

    def step(self, watermark: float, *, stored: bool) -> dict[KafkaPartition, list[Partition]]:
        """Close what has passed in memory and, with `stored`, of the next users in the store. SQL: call it in a thread.

        The caller writes it, or drops Ingest's memory and this.
        """
        found = self._ingest.sweep_held(watermark, self._owns) if watermark > self._held_mark else []
        self._held_mark = max(self._held_mark, watermark)
        if stored and watermark > self._done_mark:
            if self._pass_mark is None:
                self._pass_mark = watermark
            closed, names = self._ingest.sweep_stored(watermark, self._walk, self._owns)
            found += closed
            self._walk = names[-1] if names else ""
            if not names:
                self._done_mark, self._pass_mark = self._pass_mark, None
        by_place: dict[KafkaPartition, list[Partition]] = {}
        for partition in found:
            by_place.setdefault(KafkaPartition(self._topic, owner(partition.user_id, self._count)), []).append(
                partition
            )
        return by_place

    def numbers(
        self, positions: Mapping[KafkaPartition, Position], closed: Mapping[KafkaPartition, list[Partition]]
    ) -> dict[KafkaPartition, int]:
        """The first n of each place's announcements: after those of the sweeps before at the same offset."""
        first = {}
        for place, partitions in closed.items():
            offset, n = self._numbers.get(place, (-1, SWEPT_N))
            first[place] = n if offset == positions[place].offset else SWEPT_N
            self._numbers[place] = (positions[place].offset, first[place] + len(partitions))
        return first

    def _owns(self, user_id: str) -> bool:
        return owner(user_id, self._count) in self._mine


def watermark_of(
    engine: Engine, topic: str, positions: Mapping[KafkaPartition, Position], idle: Mapping[KafkaPartition, bool]
) -> float | None:
    """The event time that has passed: the least of the partitions that are not idle; if all are, the greatest of the
    topic, whoever reads it. None: one that is not idle has not said a time yet."""
    if not idle:
        return None
    if all(idle.values()):
        query = select(func.max(offsets.c.watermark)).where(offsets.c.source == source_of(topic))
        with engine.connect() as connection:
            found: float | None = connection.execute(query).scalar()
        return found
    marks = [positions[place].watermark for place, is_idle in idle.items() if not is_idle]
    known = [mark for mark in marks if mark is not None]
    return min(known) if len(known) == len(marks) else None


@lru_cache(maxsize=262_144)
def owner(user_id: str, count: int) -> int:
    """The partition of `count` that Kafka's own partitioner gives a user."""
    from aiokafka.partitioner import murmur2

    return int((murmur2(user_id.encode()) & 0x7FFFFFFF) % count)
