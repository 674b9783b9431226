"""A topic's stored offsets against the topic as it is: where to go on, and when not to.

Nothing is ever reset silently: what cannot be continued is refused, with what is at stake and what to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec
from sqlalchemy import Engine, delete

from interest.store.sql import insert_new, upsert, writing
from streams.kafka.errors import RefusedError
from streams.stages.consumer.assignment import KafkaPartition
from streams.stages.consumer.topics import TopicOffsets, read_topic_offsets
from streams.stages.retry import RetryPolicy
from streams.stages.stage import Context
from streams.store.tables import offsets, source_of
from streams.ubsp.ingest import Position


class StoredOffsets:
    """The positions of one assignment: in the store, advanced by compare-and-set with what they are the position of."""

    def __init__(self, topics: Mapping[str, TopicOffsets], positions: Mapping[KafkaPartition, Position]) -> None:
        self.topics = {name: topic.state for name, topic in topics.items()}
        self.positions = dict(positions)  # as folded: ahead of the store by what is being written
        self.start = {place: position.offset for place, position in positions.items()}
        self.end = {place: topics[place.topic].ranges[place.partition][1] for place in positions}
        self.written = dict(self.start)  # what the store has

    def committable(self) -> dict[KafkaPartition, tuple[int, str]]:
        """Nothing reads it back here, but autoscalers and Kafka's own tools look there."""
        return {place: (offset, "") for place, offset in self.written.items()}


class OffsetsInStore:
    """Reads the store's positions of a stage's topics."""

    def __init__(self, context: Context, stage: str, topics: Sequence[str]) -> None:
        self._context, self._topics = context, topics
        self._retry = RetryPolicy(context, stage)

    async def read(self, assigned: tuple[KafkaPartition, ...]) -> StoredOffsets:
        """The stored positions. Raises RefusedError where they cannot be continued."""
        read = partial(asyncio.to_thread, read_topic_offsets, self._context.settings.kafka, self._topics)
        topics = await self._retry.kafka(read, "cannot read the topics")
        positions: dict[KafkaPartition, Position] = {}
        for topic in topics.values():
            stored = await self._retry.store(partial(resume, self._context.engine, topic), "cannot read the positions")
            positions |= {KafkaPartition(topic.name, one): position for one, position in stored.items()}
        return StoredOffsets(topics, {place: positions[place] for place in assigned})


def check_resumable(topic: TopicOffsets, stored: Mapping[int, Position]) -> None:
    """Raise RefusedError unless every stored position can be continued."""
    remedy = f"run `interestream topics accept {topic.name}`"
    digests = {position.digest for position in stored.values()}
    if digests != {topic.id}:
        raise RefusedError(
            f"{topic.name} is not the topic that the store has read: its id is {topic.id}, the store knows "
            f"{', '.join(sorted(digests))}; it was deleted and created again. To read the new one from its start, "
            f"{remedy}"
        )
    if stored.keys() != topic.ranges.keys():
        raise RefusedError(
            f"{topic.name} has {len(topic.ranges)} partitions, the store has read {len(stored)} of them: users have "
            f"moved to other partitions. Stop the producers, let the agent read what is there, and {remedy}"
        )
    for partition, (start, end) in sorted(topic.ranges.items()):
        offset = stored[partition].offset
        if offset < start:
            raise RefusedError(
                f"retention has taken {start - offset:,} messages of {topic.name}[{partition}] that were not read: the "
                f"store stands at offset {offset}, the topic begins at {start}. To go on without them, {remedy}"
            )
        if offset > end:
            raise RefusedError(
                f"{topic.name}[{partition}] ends at offset {end}, the store has read up to {offset}: the topic has "
                "lost messages (a broker without its replicas, or a topic put back from a copy). To go on at its end, "
                f"{remedy}"
            )


def resume(engine: Engine, topic: TopicOffsets) -> dict[int, Position]:
    """The stored positions of every partition; at the very first start, the topic's beginning, written for all of them
    so that a later change of their number is noticed. Raises RefusedError where they cannot be continued."""
    source = source_of(topic.name)
    stored = positions_of(engine, source)
    if not stored:
        _write_all(engine, source, {one: _at_start(topic, one) for one in topic.ranges})
        stored = positions_of(engine, source)  # another worker may have been quicker
    check_resumable(topic, stored)
    return stored


def accept(engine: Engine, topic: TopicOffsets) -> dict[int, Position]:
    """Make the store go on with the topic as it is; return the new positions.

    A partition that cannot be continued goes on at the nearest message there is. Counts and watermarks stay: they are
    of what the store holds. Workers that still run are fenced and read their positions again.
    """
    source = source_of(topic.name)
    stored = positions_of(engine, source)
    after = {one: accepted(topic, one, stored.get(one)) for one in topic.ranges}
    with writing(engine) as connection:
        connection.execute(delete(offsets).where(offsets.c.source == source, offsets.c.partition.not_in(list(after))))
        upsert(connection, offsets, [_row(source, one, position) for one, position in sorted(after.items())])
    return after


def positions_of(engine: Engine, source: str) -> dict[int, Position]:
    """The stored position of each partition of a source."""
    query = offsets.select().where(offsets.c.source == source)
    with engine.connect() as connection:
        rows = connection.execute(query).mappings().all()
    return {row["partition"]: Position(**{name: row[name] for name in Position.__struct_fields__}) for row in rows}


def _at_start(topic: TopicOffsets, partition: int) -> Position:
    return Position(offset=topic.ranges[partition][0], digest=topic.id)


def accepted(topic: TopicOffsets, partition: int, stored: Position | None) -> Position:
    """Where `accept` lets a partition go on."""
    if stored is None:
        return _at_start(topic, partition)
    start, end = topic.ranges[partition]
    offset = min(max(stored.offset, start), end) if stored.digest == topic.id else start
    return msgspec.structs.replace(stored, offset=offset, digest=topic.id)


def _write_all(engine: Engine, source: str, positions: Mapping[int, Position]) -> None:
    with writing(engine) as connection:
        insert_new(connection, offsets, [_row(source, one, position) for one, position in sorted(positions.items())])


def _row(source: str, partition: int, position: Position) -> dict[str, object]:
    return {"source": source, "partition": partition, **msgspec.structs.asdict(position)}
