"""What a group's reader tells Kafka and whoever watches: committed low-water marks, and how much is left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from streams.kafka.clients import commit
from streams.stages.consumer.offset_tracker import OffsetTracker
from streams.stages.stage import Context

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

log = structlog.get_logger()


class Commits:
    """Of one topic and stage. The marks by Kafka partition are the reader's; they are only looked at."""

    def __init__(self, context: Context, stage: str, topic: str) -> None:
        self._context, self._stage, self._topic = context, stage, topic
        self._committed: dict[int, tuple[int, str]] = {}
        self._ends: dict[int, int] = {}
        self._assignment_generation = 0  # counts assignments: what was begun in another one is void

    def begin(self, partition: int, end: int, committed: tuple[int, str] | None) -> None:
        """A partition is read from now on; `committed` is what its group has said, if anything."""
        self._ends[partition] = end
        if committed is not None:
            self._committed[partition] = committed

    def forget(self, partition: int | None = None) -> None:
        """What was committed of one partition, or (None) everything: the partitions go to other workers."""
        if partition is not None:
            self._committed.pop(partition, None)
            return
        self._committed.clear()
        self._ends.clear()
        self._assignment_generation += 1

    async def commit(
        self, consumer: AIOKafkaConsumer | None, trackers: Mapping[int, OffsetTracker], topic_id: str
    ) -> None:
        """Commit the low-water marks that have moved, with the topic's id.

        A partition that went away meanwhile is no error: whoever has it now repeats what was not committed.
        """
        from aiokafka import TopicPartition
        from aiokafka.errors import CommitFailedError, IllegalStateError

        if consumer is None:
            return
        now = {partition: (mark.low, mark.metadata()) for partition, mark in trackers.items()}
        moved = {partition: mark for partition, mark in now.items() if self._committed.get(partition) != mark}
        if not moved:
            return
        generation = self._assignment_generation
        try:
            await commit(
                consumer,
                {
                    TopicPartition(self._topic, one): (low, f"{topic_id} {metadata}".rstrip())
                    for one, (low, metadata) in moved.items()
                },
            )
        except (CommitFailedError, IllegalStateError) as error:
            log.info("offsets not committed", stage=self._stage, topic=self._topic, why=str(error))
            return
        if generation == self._assignment_generation:
            self._committed |= moved

    async def ask_ends(self, consumer: AIOKafkaConsumer | None, trackers: Mapping[int, OffsetTracker]) -> None:
        """Where the partitions end: the lag is known though nothing is read."""
        from aiokafka import TopicPartition

        if consumer is None or not trackers:
            return
        places = [TopicPartition(self._topic, partition) for partition in trackers]
        for place, end in (await consumer.end_offsets(places)).items():
            if place.partition in trackers:
                self._ends[place.partition] = end

    def report(self, consumer: AIOKafkaConsumer | None, trackers: Mapping[int, OffsetTracker]) -> None:
        """Lag and progress, to metrics and health."""
        from aiokafka import TopicPartition

        if consumer is None:
            return
        now = time.monotonic()
        for partition, mark in trackers.items():
            seen = consumer.highwater(TopicPartition(self._topic, partition)) or 0
            end = max(self._ends.get(partition, 0), seen, mark.position)
            self._ends[partition] = end
            left = end - mark.low
            self._context.metrics.lag.labels(self._stage, self._topic, str(partition)).set(left)
            self._context.health.progressed(self._stage, self._topic, partition, mark.low, left, now)
