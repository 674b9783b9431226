"""Offsets that live in a consumer group: the low-water mark of messages that are acknowledged one by one, in any order.

For stages that are idempotent by key: a crash repeats what was acknowledged beyond the mark, and loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from streams.kafka.clients import group_of
from streams.stages.consumer.assignment import KafkaPartition, TopicState
from streams.stages.consumer.message import Message
from streams.stages.consumer.offset_tracker import OffsetTracker
from streams.stages.consumer.offsets import GroupOffsets, known_topic_id, read_group_offsets, resume_at
from streams.stages.retry import RetryPolicy
from streams.stages.stage import Context


class TrackedOffsets:
    """The messages of one assignment: which are in flight, and what may be committed."""

    def __init__(self, offsets: GroupOffsets, start: Mapping[int, int]) -> None:
        topic = offsets.topic
        self._topic_id = offsets.topic_id
        self.topics = {topic: TopicState(offsets.topic_id, offsets.partitions)}
        self.start = {KafkaPartition(topic, one): offset for one, offset in start.items()}
        self.end = {KafkaPartition(topic, one): offsets.by_partition[one].end for one in start}
        self.trackers = {
            place: OffsetTracker(offset, offsets.by_partition[place.partition].metadata)
            for place, offset in self.start.items()
        }
        self.in_flight: dict[tuple[int, int], Message[Any]] = {}  # by partition and offset

    def committable(self) -> dict[KafkaPartition, tuple[int, str]]:
        """The low-water marks; the metadata is the topic's id and what is done beyond the mark."""
        return {
            place: (tracker.low, f"{self._topic_id} {tracker.metadata()}".rstrip())
            for place, tracker in self.trackers.items()
        }


class OffsetsInGroup:
    """Reads where the stage's group stands in a topic.

    remedy: what to do when messages are gone, as a clause; see `offsets.resume_at`.
    """

    def __init__(self, context: Context, stage: str, topic: str, remedy: str) -> None:
        self._context, self._stage, self._topic, self._remedy = context, stage, topic, remedy
        self._retry = RetryPolicy(context, stage)

    async def read(self, assigned: tuple[KafkaPartition, ...]) -> TrackedOffsets:
        """The committed offsets. Raises RefusedError where messages are gone, or the topic is another one."""
        settings = self._context.settings.kafka
        partitions = [place.partition for place in assigned]
        group = group_of(settings, self._stage)
        read = partial(asyncio.to_thread, read_group_offsets, settings, group, self._topic, partitions)
        offsets = await self._retry.kafka(read, "cannot read the group's offsets")
        known = await self._retry.store(
            lambda: known_topic_id(self._context.engine, self._topic, offsets.topic_id), "cannot read the topic's id"
        )
        start = resume_at(offsets, expected=settings.partitions, remedy=self._remedy, known=known)
        return TrackedOffsets(offsets, {one: start[one] for one in partitions})
