"""Accepts a topic that a stage refused: what is gone is gone, and the group goes on with what is there.

For the topics whose position is a consumer group's (partitions, interest-updates); `interestream topics accept` asks
before it does this. The group must have no members: stop the workers first.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Engine

from interest.store.sql import writing
from streams.kafka.clients import KafkaError, admin, group_of
from streams.settings.schema import KafkaSettings
from streams.stages.consumer.offsets import GroupOffsets, PartitionOffsets, accept_topic_id, read_group_offsets


class AcceptedOffset(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one Kafka partition's position."""

    partition: int
    before: int | None
    after: int
    gone: int  # messages that were never worked on; 0 where that is not known


def unusable_offsets(offsets: GroupOffsets) -> list[AcceptedOffset]:
    """What `accept_group_offsets` would change: every position that is no good, to the oldest message that is left."""
    return [
        AcceptedOffset(partition=partition, before=one.committed, after=one.start, gone=_gone(one, offsets.topic_id))
        for partition, one in offsets.by_partition.items()
        if one.committed is not None and not _is_usable(one, offsets.topic_id)
    ]


def accept_group_offsets(engine: Engine, settings: KafkaSettings, stage: str, topic: str) -> list[AcceptedOffset]:
    """Set the stage's group to the oldest message that is left wherever its position is no good; return the changes.

    Raises KafkaError where the group still has members.
    """
    from kafka import TopicPartition
    from kafka.structs import OffsetAndMetadata

    group = group_of(settings, stage)
    offsets = read_group_offsets(settings, group, topic)
    changes = unusable_offsets(offsets)
    if changes:
        at_start = {
            TopicPartition(topic, one.partition): OffsetAndMetadata(one.after, offsets.topic_id, -1) for one in changes
        }
        with admin(settings) as client:
            answers = client.alter_group_offsets(group, at_start)
        failed = {place: answer for place, answer in answers.items() if getattr(answer, "errno", 0)}
        if failed:
            said = ", ".join(sorted({answer.__name__ for answer in failed.values()}))
            raise KafkaError(f"the group {group} keeps its offsets of {topic} ({said}): stop its workers, then repeat")
    with writing(engine) as connection:
        accept_topic_id(connection, topic, offsets.topic_id)
    return changes


def _is_usable(one: PartitionOffsets, topic_id: str) -> bool:
    assert one.committed is not None
    return one.start <= one.committed <= one.end and one.topic_id_then in ("", topic_id)


def _gone(one: PartitionOffsets, topic_id: str) -> int:
    same = one.topic_id_then in ("", topic_id)
    return max(0, one.start - (one.committed or 0)) if same else 0
