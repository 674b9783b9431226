"""Where a consumer group goes on in a topic, and the cases in which it must not: messages gone by retention, a topic
that was deleted and made again, another number of partitions.

A group's commit carries the id of the topic it was made in, and what is done beyond it, in its text. Kafka drops the
commits of a topic that is deleted, so the store remembers the id too, among its counters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
from sqlalchemy import Connection, Engine, delete, select

from interest.store.sql import insert_new, writing
from interest.store.tables import counters
from streams.kafka.clients import KafkaError, admin
from streams.kafka.errors import RefusedError
from streams.kafka.provision import offset_ranges, read_topics
from streams.settings.schema import KafkaSettings


class PartitionOffsets(msgspec.Struct, frozen=True, kw_only=True):
    """Where a group stands in one Kafka partition."""

    committed: int | None  # the next offset to work on; none: it has not begun, or has been away too long
    topic_id_then: str  # id of the topic that the commit was made in; "" where the commit does not say
    metadata: str = ""  # what else the commit says: see `offset_tracker.OffsetTracker.metadata`
    start: int  # the oldest message that is still there
    end: int  # after the newest


class GroupOffsets(msgspec.Struct, frozen=True, kw_only=True):
    """Where a group stands in a topic."""

    topic: str
    topic_id: str
    partitions: int  # of the topic
    by_partition: Mapping[int, PartitionOffsets]


def read_group_offsets(
    settings: KafkaSettings, group: str, topic: str, partitions: Collection[int] = ()
) -> GroupOffsets:
    """Ask Kafka; blocks. `partitions`: only these; empty means all.

    Raises this project's KafkaError where no broker answers and where the topic is not there, Kafka's own otherwise.
    """
    from kafka import TopicPartition

    with admin(settings) as client:
        found = read_topics(client, [topic]).get(topic)
        if found is None:
            raise KafkaError(f"the topic {topic} is not there; run `interestream topics create`")
        wanted = sorted(partitions) or list(range(found.partitions))
        ranges = offset_ranges(client, [found])
        places = [TopicPartition(topic, partition) for partition in wanted]
        committed = client.list_group_offsets({group: places})[group] if places else {}
    offsets = {}
    for place in places:
        at = committed.get(place)
        start, end = ranges.get((topic, place.partition), (0, 0))
        topic_id_then, _, metadata = ((at.metadata or "") if at is not None else "").partition(" ")
        offsets[place.partition] = PartitionOffsets(
            committed=None if at is None or at.offset < 0 else at.offset,
            topic_id_then=topic_id_then,
            metadata=metadata,
            start=start,
            end=end,
        )
    return GroupOffsets(topic=topic, topic_id=found.id, partitions=found.partitions, by_partition=offsets)


def known_topic_id(engine: Engine, topic: str, topic_id: str) -> str:
    """The id by which the store knows the topic; the first one it is told is the one it remembers."""
    with writing(engine) as connection:
        known = [
            name for name in connection.execute(select(counters.c.name)).scalars() if name.startswith(_mark(topic))
        ]
        if not known:
            insert_new(connection, counters, [{"name": _mark(topic) + topic_id, "value": 1}])
        return known[0].removeprefix(_mark(topic)) if known else topic_id


def accept_topic_id(connection: Connection, topic: str, topic_id: str) -> None:
    """Let the store know the topic by this id from now on."""
    for name in connection.execute(select(counters.c.name)).scalars().all():
        if name.startswith(_mark(topic)):
            connection.execute(delete(counters).where(counters.c.name == name))
    insert_new(connection, counters, [{"name": _mark(topic) + topic_id, "value": 1}])


def _mark(topic: str) -> str:
    return f"topic {topic} "


def resume_at(offsets: GroupOffsets, *, expected: int, remedy: str, known: str = "") -> dict[int, int]:
    """The offset to begin at, by partition: the committed one, else the oldest there is.

    Args:
        expected: the number of partitions the settings name.
        remedy: what repairs the loss of messages, as a clause: "run ... and then ...".
        known: the id by which the store knows the topic.

    Raises:
        RefusedError: going on would pass over messages, or take another topic's messages for this one's.
    """
    topic = offsets.topic
    if offsets.partitions != expected:
        raise RefusedError(
            f"{topic} has {offsets.partitions} partitions, the settings say {expected}: a user's messages would lie "
            "in two of them, out of order. `interestream topics show` says what to do"
        )
    if known and known != offsets.topic_id:
        raise RefusedError(
            f"{topic} was deleted and made again since this store read it (its id was {known}, now it is "
            f"{offsets.topic_id}); messages that were in it and not worked on are gone: {remedy}"
        )
    return {
        partition: _resume_partition(topic, offsets.topic_id, partition, one, remedy)
        for partition, one in offsets.by_partition.items()
    }


def _resume_partition(topic: str, topic_id: str, partition: int, one: PartitionOffsets, remedy: str) -> int:
    if one.committed is None:
        return one.start
    place = f"{topic}[{partition}]"
    if one.topic_id_then and one.topic_id_then != topic_id:
        raise RefusedError(
            f"{topic} was deleted and made again since this group stood at offset {one.committed} of {place} "
            f"(its id was {one.topic_id_then}, now it is {topic_id}); messages that were in it and not worked on are "
            f"gone: {remedy}"
        )
    if one.committed < one.start:
        raise RefusedError(
            f"{one.start - one.committed:,} messages of {place} are gone by retention before they were worked on: "
            f"this group stands at offset {one.committed}, the oldest that is left is {one.start}: {remedy}"
        )
    if one.committed > one.end:
        raise RefusedError(
            f"{place} ends at offset {one.end}, this group stands at {one.committed}: messages that were there are "
            f"gone, the topic may have been made again or restored from an older copy: {remedy}"
        )
    return one.committed
