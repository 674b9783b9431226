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
from streams.stages.consumer.offsets import Standing, Standings, accept_id, read_standings


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one Kafka partition's position."""

    partition: int
    before: int | None
    after: int
    gone: int  # messages that were never worked on; 0 where that is not known


def acceptable(standings: Standings) -> list[Accepted]:
    """What `accept_group` would change: every position that is no good, to the oldest message that is left."""
    return [
        Accepted(partition=partition, before=one.committed, after=one.start, gone=_gone(one, standings.topic_id))
        for partition, one in standings.by_partition.items()
        if one.committed is not None and not _good(one, standings.topic_id)
    ]


def accept_group(engine: Engine, settings: KafkaSettings, stage: str, topic: str) -> list[Accepted]:
    """Set the stage's group to the oldest message that is left wherever its position is no good; return the changes.

    Raises KafkaError where the group still has members.
    """
    from kafka import TopicPartition
    from kafka.structs import OffsetAndMetadata

    group = group_of(settings, stage)
    standings = read_standings(settings, group, topic)
    changes = acceptable(standings)
    if changes:
        offsets = {
            TopicPartition(topic, one.partition): OffsetAndMetadata(one.after, standings.topic_id, -1)
            for one in changes
        }
        with admin(settings) as client:
            answers = client.alter_group_offsets(group, offsets)
        failed = {place: answer for place, answer in answers.items() if getattr(answer, "errno", 0)}
        if failed:
            said = ", ".join(sorted({answer.__name__ for answer in failed.values()}))
            raise KafkaError(f"the group {group} keeps its offsets of {topic} ({said}): stop its workers, then repeat")
    with writing(engine) as connection:
        accept_id(connection, topic, standings.topic_id)
    return changes


def _good(one: Standing, topic_id: str) -> bool:
    assert one.committed is not None
    return one.start <= one.committed <= one.end and one.commit_id in ("", topic_id)


def _gone(one: Standing, topic_id: str) -> int:
    same = one.commit_id in ("", topic_id)
    return max(0, one.start - (one.committed or 0)) if same else 0
