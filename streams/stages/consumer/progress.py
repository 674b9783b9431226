"""What an assignment's group is told, and how much is left: commits, the ends of the partitions, lag."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import structlog

from streams.kafka.clients import commit
from streams.stages.consumer.assignment import Assignment, KafkaPartition
from streams.stages.stage import Context

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition

log = structlog.get_logger()


class Progress:
    """Of one assignment. Call `close` when its partitions are this worker's no more."""

    def __init__(self, context: Context, stage: str, client: AIOKafkaConsumer, assignment: Assignment[Any]) -> None:
        self._context, self._stage, self._client, self._assignment = context, stage, client, assignment
        self._committed: dict[KafkaPartition, tuple[int, str]] = {}
        self._closed = False  # an assignment that is void for the stage's work still has its lag

    async def commit(self) -> bool:
        """Commit what has moved; at first, everything.

        False where the group does not know this worker (any more), or a partition went away meanwhile: not an error,
        for whoever has it now repeats what was not committed.
        """
        from aiokafka.errors import CommitFailedError, IllegalStateError

        now = self._assignment.offsets.committable()
        moved = {place: mark for place, mark in now.items() if self._committed.get(place) != mark}
        if not moved or self._assignment.revoked:  # aiokafka raises ValueError for an empty commit
            return True
        try:
            await commit(self._client, {topic_partition(place): mark for place, mark in moved.items()})
        except (CommitFailedError, IllegalStateError) as error:
            log.info("offsets not committed", stage=self._stage, why=str(error))
            return False
        self._committed |= moved
        return True

    async def ask_ends(self) -> bool:
        """Where the partitions end: the lag is known though nothing is read. False where there are none."""
        places = [topic_partition(place) for place in self._assignment.offsets.start]
        if not places or self._closed:
            return False
        for place, end in (await self._client.end_offsets(places)).items():
            self._assignment.ends[KafkaPartition(*place)] = end
        return True

    def report(self) -> None:
        """Lag and progress, to metrics and health."""
        if self._closed:
            return
        now = time.monotonic()
        for place, (done, _) in self._assignment.offsets.committable().items():
            left = max(0, self._assignment.ends.get(place, done) - done)
            self._context.metrics.lag.labels(self._stage, place.topic, str(place.partition)).set(left)
            self._context.health.progressed(self._stage, place.topic, place.partition, done, left, now)

    def close(self, kept: Collection[KafkaPartition] = ()) -> None:
        """The partitions are not this worker's any more, but for those kept."""
        self._closed = True
        for place in self._assignment.offsets.start:
            if place not in kept:
                self._context.health.unassigned(self._stage, place.topic, place.partition)
                self._context.metrics.lag.remove(self._stage, place.topic, str(place.partition))


def topic_partition(place: KafkaPartition) -> TopicPartition:
    """aiokafka's own kind: where its code asks for the type, an equal tuple does not do."""
    from aiokafka import TopicPartition

    return TopicPartition(*place)
