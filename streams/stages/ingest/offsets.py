"""A topic's stored offsets against the topic as it is: where to go on, and when not to.

Nothing is ever reset silently: what cannot be continued is refused, with what is at stake and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Engine, delete

from interest.store.sql import insert_new, upsert, writing
from streams.kafka.clients import KafkaError, admin
from streams.kafka.provision import offset_ranges, read_topics
from streams.settings.schema import KafkaSettings
from streams.store.tables import offsets, source_of
from streams.ubsp.ingest import Position


class RefusedError(KafkaError):
    """The topic is not the one that the store has read; waiting does not help."""


class TopicOffsets(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as it is."""

    name: str
    id: str
    ranges: dict[int, tuple[int, int]]  # start and end offset of each partition


def read_topic_offsets(settings: KafkaSettings, names: Sequence[str]) -> dict[str, TopicOffsets]:
    """The topics as they are. Raises RefusedError for one that is not there, KafkaError where nobody answers."""
    with admin(settings) as client:
        found = read_topics(client, names)
        missing = [name for name in names if name not in found]
        if missing:
            raise RefusedError(
                f"there is no topic {', '.join(missing)} at {settings.brokers}: run `interestream topics create`"
            )
        ranges = offset_ranges(client, found.values())
    return {
        name: TopicOffsets(
            name=name, id=topic.id, ranges={one: ranges[name, one] for one in range(topic.partitions)}
        )
        for name, topic in found.items()
    }  # fmt: skip


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
