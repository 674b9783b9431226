"""How far every stage is behind: what is done, what there is, who works on it, and what waits beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Engine, func, select

from streams.kafka.clients import KafkaError, admin_for_command, group_of
from streams.kafka.groups import committed_of, members_of
from streams.kafka.provision import TopicState, offset_ranges, read_topics
from streams.kafka.topics import STAGES, Topics, dead_of
from streams.settings.schema import KafkaSettings
from streams.stages.ingest.offsets import positions_of
from streams.store.tables import outbox, source_of

if TYPE_CHECKING:
    from kafka import KafkaAdminClient


class PartitionLag(msgspec.Struct, frozen=True, kw_only=True):
    topic: str
    partition: int
    done: int | None  # the next offset to work on; none: nothing was read yet
    end: int  # after the newest message
    lag: int
    note: str | None = None  # for which the stage refuses to go on


class StageLag(msgspec.Struct, frozen=True, kw_only=True):
    stage: str
    lag: int
    members: tuple[str, ...]
    partitions: tuple[PartitionLag, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    stages: tuple[StageLag, ...]
    outbox: dict[str, int]  # rows committed and maybe not announced yet, by topic
    dead: dict[str, int]  # records in each topic of dead letters, closed letters and tombstones among them

    @property
    def worst(self) -> int:
        return max(one.lag for one in self.stages)

    @property
    def stuck(self) -> bool:
        """Whether a stage refuses to go on: its lag may then be 0, and means nothing."""
        return any(row.note for one in self.stages for row in one.partitions)


Ranges = dict[tuple[str, int], tuple[int, int]]


def read_lag(engine: Engine, settings: KafkaSettings) -> Report:
    """Ask Kafka and the store. Raises KafkaError where no broker answers or a topic is missing."""
    topics = Topics(settings.prefix)
    read = {stage: topics.read_by(stage) for stage in STAGES}
    dead = [dead_of(name) for name in topics.consumed]
    with admin_for_command(settings) as client:
        found = read_topics(client, [name for names in read.values() for name in names] + dead)
        if missing := [name for names in read.values() for name in names if name not in found]:
            raise KafkaError(
                f"there is no topic {', '.join(missing)} at {settings.brokers}: run `interestream topics create`"
            )
        members = members_of(client, settings, STAGES)
        # before the ends, so that no lag is negative; a message that comes in between is lag for a moment
        done = {stage: _done(client, engine, settings, stage, read[stage], found) for stage in STAGES}
        ranges = offset_ranges(client, found.values())
    with engine.connect() as connection:
        waiting = connection.execute(select(outbox.c.topic, func.count()).group_by(outbox.c.topic)).all()
    return Report(
        stages=tuple(
            _stage(stage, [found[name] for name in read[stage]], done[stage], ranges, members[stage])
            for stage in STAGES
        ),
        outbox={topic: count for topic, count in sorted(waiting)},  # noqa: C416  (a Row is no tuple to mypy)
        dead={name: sum(end - start for (one, _), (start, end) in ranges.items() if one == name) for name in dead},
    )


Done = dict[tuple[str, int], tuple[int, str]]  # offset, and the id of the topic it is of ("": not said)


def _done(
    client: KafkaAdminClient,
    engine: Engine,
    settings: KafkaSettings,
    stage: str,
    topics: tuple[str, ...],
    found: dict[str, TopicState],
) -> Done:
    """Where a stage stands: ingest by the store, the others by their group's commits."""
    if stage != "ingest":
        committed = committed_of(client, group_of(settings, stage))
        return {place: (offset, "") for place, offset in committed.items() if place[0] in found}
    return {
        (name, partition): (position.offset, position.digest)
        for name in topics
        for partition, position in positions_of(engine, source_of(name)).items()
    }


def _stage(stage: str, topics: list[TopicState], done: Done, ranges: Ranges, members: list[str]) -> StageLag:
    rows = [
        _row(topic, partition, done.get((topic.name, partition)), ranges[topic.name, partition])
        for topic in topics
        for partition in range(topic.partitions)
    ]
    return StageLag(
        stage=stage, lag=sum(row.lag for row in rows), members=tuple(sorted(members)), partitions=tuple(rows)
    )


def _row(topic: TopicState, partition: int, done: tuple[int, str] | None, between: tuple[int, int]) -> PartitionLag:
    start, end = between
    offset, topic_id = done or (None, "")
    note = None
    if topic_id and topic_id != topic.id:
        note = "the topic was made again"
    elif offset is not None and offset < start:
        note = f"{start - offset:,} messages are gone by retention"
    elif offset is not None and offset > end:
        note = "the topic has lost messages"
    begin = start if offset is None or note else offset
    return PartitionLag(topic=topic.name, partition=partition, done=offset, end=end, lag=max(0, end - begin), note=note)
