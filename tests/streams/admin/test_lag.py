"""`lag` and `topics accept`: where the stages stand, and how one that refused goes on. On the real broker."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata
from sqlalchemy import insert, select
from typer.testing import CliRunner

from interest.errors import InputError
from interest.store.sql import writing
from interest.store.tables import behaviors
from streams.admin.accept_topic import accept, check_stopped, plan_acceptance
from streams.admin.lag import read_lag
from streams.cli import app
from streams.kafka.clients import KafkaError, admin, group_of
from streams.kafka.provision import create_topics, read_topics
from streams.kafka.topics import Topics, dead_of
from streams.settings.schema import KafkaSettings
from streams.stages.consumer.offsets import known_topic_id
from streams.stages.ingest.offsets import positions_of
from streams.stages.ingest.stage import IngestStage
from streams.store.outbox import Announcement, add
from streams.store.tables import offsets, source_of
from tests.support.stage_rig import drained, in_loop, make_context, produce, running
from tests.support.topics import delete_topic


@pytest.fixture
def settings(kafka, monkeypatch):
    settings = msgspec.structs.replace(kafka, partitions=2)
    create_topics(settings)
    monkeypatch.setenv("INTERESTREAM_KAFKA", settings.brokers)
    monkeypatch.setenv("INTERESTREAM_KAFKA_PREFIX", settings.prefix)
    monkeypatch.setenv("INTERESTREAM_KAFKA_PARTITIONS", "2")
    return settings


@pytest.fixture
def topics(settings):
    return Topics(settings.prefix)


def run(store, *arguments: str, code: int = 0, **more) -> str:
    outcome = CliRunner().invoke(app, [*arguments, "--store", str(store.url)], **more)
    assert outcome.exit_code == code, (outcome.output, outcome.exception)
    return outcome.stdout


def behavior(number: int) -> tuple[bytes, bytes]:
    user = f"u{number % 7}"
    body = {"user_id": user, "item_id": f"i{number}", "action": "view", "at": 1_000.0 + number}
    return user.encode(), json.dumps(body).encode()


def topic_id(settings: KafkaSettings, topic: str) -> str:
    with admin(settings) as client:
        return read_topics(client, [topic])[topic].id


def stand(store, settings: KafkaSettings, topic: str, at: dict[int, int], digest: str | None = None) -> None:
    """The store has read a topic so far."""
    counts = {"watermark": 5.0, "accepted": 3, "late": 0, "duplicates": 1, "rejected": 0}
    rows = [
        {"source": source_of(topic), "partition": one, "offset": offset, "digest": digest or topic_id(settings, topic)}
        for one, offset in at.items()
    ]
    with writing(store) as connection:
        connection.execute(insert(offsets), [row | counts for row in rows])


def commit(settings: KafkaSettings, stage: str, topic: str, at: dict[int, int], said: str = "") -> None:
    """The stage's group has worked off a topic so far."""
    places = {TopicPartition(topic, one): OffsetAndMetadata(offset, said, -1) for one, offset in at.items()}
    with admin(settings) as client:
        client.alter_group_offsets(group_of(settings, stage), places)


def committed(settings: KafkaSettings, stage: str) -> dict[int, tuple[int, str]]:
    with admin(settings) as client:
        found = client.list_group_offsets([group_of(settings, stage)])[group_of(settings, stage)]
    return {place.partition: (at.offset, at.metadata) for place, at in found.items()}


def fill(settings: KafkaSettings, topic: str, count: int) -> None:
    asyncio.run(produce(settings, topic, [(b"u%d" % number, b"{}") for number in range(count)]))


def make_again(settings: KafkaSettings, topic: str, partitions: int = 2) -> None:
    delete_topic(settings, topic)
    create_topics(msgspec.structs.replace(settings, partitions=partitions))


def cut(settings: KafkaSettings, topic: str, at: dict[int, int]) -> None:
    """Retention takes the messages before these offsets."""
    with admin(settings) as client:
        client.delete_records({TopicPartition(topic, one): offset for one, offset in at.items()})


def test_each_stage_stands_where_it_says(store, settings, topics):
    for topic, count in ((topics.behaviors, 20), (topics.partitions, 9), (dead_of(topics.items), 3)):
        fill(settings, topic, count)
    stand(store, settings, topics.behaviors, {0: 4, 1: 5})
    commit(settings, "interest", topics.partitions, {0: 1})
    one = Announcement(topic=topics.partitions, partition=0, offset=3, user_id="u", message=b"{}")
    with writing(store) as connection:
        add(connection, [one, msgspec.structs.replace(one, n=1)])
    report = read_lag(store, settings)
    stages = {stage.stage: stage for stage in report.stages}
    assert [stage.lag for stage in report.stages] == [20 - 9, 9 - 1, 0]
    assert report.worst == 11
    rows = {(row.topic, row.partition): row for row in stages["ingest"].partitions}
    assert [rows[topics.behaviors, one].done for one in (0, 1)] == [4, 5]
    assert rows[topics.items, 0].done is None
    assert sum(row.end for row in stages["ingest"].partitions) == 20
    assert [row.done for row in stages["interest"].partitions] == [1, None]
    assert report.outbox == {topics.partitions: 2}
    assert {topic: count for topic, count in report.dead.items() if count} == {dead_of(topics.items): 3}
    assert not any(stage.members for stage in report.stages)

    said = run(store, "lag")
    assert "ingest    lag 11 in all; no worker runs it" in said
    assert "2 waiting to be announced" in said
    assert "3 records" in said
    told = json.loads(run(store, "lag", "--json", "--max", "11"))
    assert [stage["lag"] for stage in told["stages"]] == [11, 8, 0]
    run(store, "lag", "--max", "10", code=1)


@in_loop
async def test_a_running_worker_is_seen_and_its_lag_goes_to_nothing(store, settings, topics):
    await produce(settings, topics.behaviors, [behavior(number) for number in range(300)])
    assert (await asyncio.to_thread(read_lag, store, settings)).worst == 300
    async with running(make_context(store, settings)):
        await drained(store, settings)
        report = await asyncio.to_thread(read_lag, store, settings)
        assert report.stages[0].lag == 0
        assert len(report.stages[0].members) == 1
        assert "127.0.0.1" in report.stages[0].members[0]
        with pytest.raises(KafkaError, match="1 workers of the stage ingest run"):
            await asyncio.to_thread(check_stopped, settings, "ingest")
    await asyncio.to_thread(check_stopped, settings, "ingest")
    assert not (await asyncio.to_thread(read_lag, store, settings)).stages[0].members


@in_loop
async def test_ingest_goes_on_after_messages_that_retention_took_were_accepted(store, settings, topics):
    await produce(settings, topics.behaviors, [behavior(number) for number in range(100)])
    async with running(make_context(store, settings)):
        await drained(store, settings)
    stood = positions_of(store, source_of(topics.behaviors))
    await produce(settings, topics.behaviors, [behavior(number) for number in range(100, 200)])
    await asyncio.to_thread(cut, settings, topics.behaviors, {0: stood[0].offset + 7})
    with pytest.raises(KafkaError, match="topics accept"):
        await asyncio.wait_for(IngestStage(make_context(store, settings)).run(asyncio.Event()), 60)
    report = await asyncio.to_thread(read_lag, store, settings)
    assert "7 messages are gone by retention" in [row.note for row in report.stages[0].partitions]

    said = await asyncio.to_thread(run, store, "topics", "accept", code=1, input="n\n")
    assert "stands at" in said
    assert positions_of(store, source_of(topics.behaviors)) == stood
    plan = await asyncio.to_thread(plan_acceptance, store, settings, "behaviors")
    [change] = plan.changes
    assert (change.partition, change.before, change.lost) == (0, stood[0].offset, 7)
    said = await asyncio.to_thread(run, store, "topics", "accept", "behaviors", "--yes")
    assert f"{stood[0].offset:,}" in said
    after = positions_of(store, source_of(topics.behaviors))
    assert after[1] == stood[1]
    assert after[0] == msgspec.structs.replace(stood[0], offset=stood[0].offset + 7)
    assert "nothing to accept" in await asyncio.to_thread(run, store, "topics", "accept")
    async with running(make_context(store, settings)):
        await drained(store, settings)
    with store.connect() as connection:
        assert len(connection.execute(select(behaviors)).all()) == 200 - 7


def test_a_topic_made_again_is_read_from_its_start(store, settings, topics):
    old = topic_id(settings, topics.users)
    stand(store, settings, topics.users, {0: 40, 1: 50})
    make_again(settings, topics.users)
    fill(settings, topics.users, 6)
    report = read_lag(store, settings)
    assert {row.note for row in report.stages[0].partitions if row.topic == topics.users} == {
        "the topic was made again"
    }
    assert report.stages[0].lag == 6
    assert report.stuck
    run(store, "lag", "--max", "1000", code=1)  # not small: it refuses to go on
    plan = plan_acceptance(store, settings, topics.users)
    assert (plan.id_before, plan.id) == (old, topic_id(settings, topics.users))
    assert [(one.before, one.after, one.lost) for one in plan.changes] == [(40, 0, None), (50, 0, None)]
    assert "was deleted and made again" in run(store, "topics", "accept", "users", "--yes")
    after = positions_of(store, source_of(topics.users))
    assert {(one.offset, one.digest, one.accepted, one.watermark) for one in after.values()} == {(0, plan.id, 3, 5.0)}
    assert not plan_acceptance(store, settings, topics.users).needed


def test_partitions_that_were_added_get_a_position(store, settings, topics, monkeypatch):
    stand(store, settings, topics.behaviors, {0: 0, 1: 0})
    with admin(settings) as client:
        by_user = (*topics.of_users(compacted=True), *topics.of_users(compacted=False))
        client.create_partitions(dict.fromkeys(by_user, 3))
        while {found.partitions for found in read_topics(client, by_user).values()} != {3}:
            pass  # the broker has said yes, and its metadata follow
    with pytest.raises(KafkaError, match=r"behaviors has 3 partitions, the settings say 2"):
        plan_acceptance(store, settings, "behaviors")  # no offset helps while the settings are wrong
    grown = msgspec.structs.replace(settings, partitions=3)
    plan = plan_acceptance(store, grown, "behaviors")
    assert [(one.partition, one.before, one.after, one.lost) for one in plan.changes] == [(2, None, 0, 0)]
    accept(store, grown, plan)
    assert sorted(positions_of(store, source_of(topics.behaviors))) == [0, 1, 2]


def test_a_group_is_moved_past_what_retention_took(store, settings, topics):
    fill(settings, topics.partitions, 40)
    cut(settings, topics.partitions, {0: 10, 1: 10})
    here = topic_id(settings, topics.partitions)
    commit(settings, "interest", topics.partitions, {0: 4, 1: 12}, said=here)
    plan = plan_acceptance(store, settings, "partitions")
    assert [(one.partition, one.before, one.after, one.lost) for one in plan.changes] == [(0, 4, 10, 6)]
    assert "6 messages are gone" in run(store, "lag")
    run(store, "topics", "accept", "partitions", "--yes")
    assert committed(settings, "interest") == {0: (10, here), 1: (12, here)}


def test_a_groups_topic_that_was_made_again_is_accepted(store, settings, topics):
    old = known_topic_id(store, topics.updates, topic_id(settings, topics.updates))
    make_again(settings, topics.updates)
    plan = plan_acceptance(store, settings, "interest-updates")
    assert plan.id_before == old != plan.id
    assert "was deleted and made again" in run(store, "topics", "accept", "--yes")
    assert known_topic_id(store, topics.updates, plan.id) == plan.id
    assert not plan_acceptance(store, settings, "interest-updates").needed


def test_what_no_stage_reads_cannot_be_accepted(store, settings):
    with pytest.raises(InputError, match="no stage reads a topic 'representations'"):
        plan_acceptance(store, settings, "representations")


def test_lag_without_topics_says_what_to_do(store, kafka):
    with pytest.raises(KafkaError, match=r"no topic .*behaviors.*topics create"):
        read_lag(store, kafka)
