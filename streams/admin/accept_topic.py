"""After a refusal: what going on would mean, and going on. Behind `interestream topics accept`.

A topic of ingest's stands in the store's `offsets`, the others in their consumer group; either way a stage that still
runs would go on from what it remembers, so all its workers must be stopped.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Engine

from interest.errors import InputError
from streams.kafka.clients import KafkaError, admin_for_command, group_of
from streams.kafka.groups import members_of
from streams.kafka.provision import faults_of, planned, read_topics
from streams.kafka.topics import STAGES, Topics
from streams.settings.schema import KafkaSettings
from streams.stages.consumer.accept import AcceptedOffset, accept_group_offsets, unusable_offsets
from streams.stages.consumer.offsets import known_topic_id, read_group_offsets
from streams.stages.consumer.topics import read_topic_offsets
from streams.stages.ingest import offsets as positions
from streams.store.tables import source_of
from streams.ubsp.ingest import Position


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What accepting would do to one Kafka partition's position."""

    partition: int
    before: int | None  # none: nothing of it was read
    after: int | None  # none: the topic has no such partition any more
    lost: int | None  # messages never worked on; none: nobody can tell


class Acceptance(msgspec.Struct, frozen=True, kw_only=True):
    """What accepting a topic as it is would do."""

    topic: str
    stage: str
    id: str
    id_before: str  # another one: the topic was deleted and made again
    changes: tuple[Change, ...]

    @property
    def needed(self) -> bool:
        return self.id != self.id_before or bool(self.changes)


def stage_of(settings: KafkaSettings, topic: str) -> tuple[str, str]:
    """The stage that reads a topic, and the topic's full name. Raises InputError for a topic that none reads."""
    topics = Topics(settings.prefix)
    stages = {name: stage for stage in STAGES for name in topics.read_by(stage)}
    for name in (topic, settings.prefix + topic):
        if name in stages:
            return stages[name], name
    raise InputError(f"no stage reads a topic {topic!r}; there are: {', '.join(sorted(stages))}")


def plan_acceptance(engine: Engine, settings: KafkaSettings, topic: str) -> Acceptance:
    """What `accept` would do.

    Raises KafkaError for a topic that the settings do not fit: no offset helps there.
    """
    stage, name = stage_of(settings, topic)
    _refuse_misfit(settings, name)
    if stage == "ingest":
        return _of_store(engine, settings, name)
    offsets = read_group_offsets(settings, group_of(settings, stage), name)
    return Acceptance(
        topic=name,
        stage=stage,
        id=offsets.topic_id,
        id_before=known_topic_id(engine, name, offsets.topic_id),
        changes=tuple(_of_group(one) for one in unusable_offsets(offsets)),
    )


def accept(engine: Engine, settings: KafkaSettings, plan: Acceptance) -> None:
    """Let the stage go on with the topic as it is. Raises KafkaError while a worker of the stage runs."""
    check_stopped(settings, plan.stage)
    if plan.stage == "ingest":
        positions.accept(engine, read_topic_offsets(settings, [plan.topic])[plan.topic])
    else:
        accept_group_offsets(engine, settings, plan.stage, plan.topic)


def _of_store(engine: Engine, settings: KafkaSettings, name: str) -> Acceptance:
    topic_now = read_topic_offsets(settings, [name])[name]
    stored = positions.positions_of(engine, source_of(name))
    changes = []
    for partition in sorted(stored.keys() | topic_now.ranges.keys()) if stored else ():
        before = stored.get(partition)
        if partition not in topic_now.ranges:
            changes.append(Change(partition=partition, before=stored[partition].offset, after=None, lost=None))
            continue
        after = positions.accepted(topic_now, partition, before)
        if before is None or (before.offset, before.digest) != (after.offset, after.digest):
            changes.append(_of_position(partition, before, after))
    known = {position.digest for position in stored.values()} or {topic_now.id}
    return Acceptance(
        topic=name,
        stage="ingest",
        id=topic_now.id,
        id_before=topic_now.id if known == {topic_now.id} else next(iter(known - {topic_now.id})),
        changes=tuple(changes),
    )


def _of_position(partition: int, before: Position | None, after: Position) -> Change:
    if before is None:
        return Change(partition=partition, before=None, after=after.offset, lost=0)
    told = before.digest == after.digest and before.offset < after.offset
    lost = after.offset - before.offset if told else None
    return Change(partition=partition, before=before.offset, after=after.offset, lost=lost)


def _of_group(one: AcceptedOffset) -> Change:
    return Change(partition=one.partition, before=one.before, after=one.after, lost=one.gone or None)


def _refuse_misfit(settings: KafkaSettings, name: str) -> None:
    with admin_for_command(settings) as client:
        found = read_topics(client, [name]).get(name)
    if found is None:
        raise KafkaError(f"there is no topic {name} at {settings.brokers}: run `interestream topics create`")
    for plan in planned(settings):
        if plan.name == name and (faults := faults_of(plan, found)):
            raise KafkaError("; ".join(faults))


def check_stopped(settings: KafkaSettings, stage: str) -> None:
    """Raise KafkaError while a worker of the stage runs."""
    with admin_for_command(settings) as client:
        running = members_of(client, settings, [stage])[stage]
    if running:
        raise KafkaError(
            f"{len(running)} workers of the stage {stage} run ({', '.join(running)}): stop them first. One that was "
            f"killed counts as running for {settings.session_timeout_s:g} s more"
        )
