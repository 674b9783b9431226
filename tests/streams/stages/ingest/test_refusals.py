"""What the ingest stage refuses to read: a log that lost messages, was made anew, or is cut otherwise."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from kafka import TopicPartition as PythonPartition

from interest.errors import StoreError
from interest.store.tables import behaviors
from streams.kafka.clients import KafkaError, admin
from streams.stages.consumer.topics import read_topic_offsets
from streams.stages.ingest.offsets import accept
from streams.stages.ingest.stage import IngestStage
from streams.stages.ingest.sweeps import owner
from streams.store.tables import offsets, source_of
from tests.support.stage_rig import (
    GOOD,
    content,
    count,
    drained,
    in_loop,
    make_context,
    make_topics,
    message,
    produce,
    running,
)
from tests.support.topics import delete_topic


async def refusal(context) -> str:
    stage = IngestStage(context)
    with pytest.raises((KafkaError, StoreError)) as caught:
        await asyncio.wait_for(stage.run(asyncio.Event()), 60)
    assert context.health.refused == str(caught.value)
    return str(caught.value)


async def read_some(kafka, engine, count=200):
    topics = make_topics(kafka)
    await produce(
        kafka, topics.behaviors, [message(msgspec.structs.replace(GOOD, at=GOOD.at + n)) for n in range(count)]
    )
    async with running(make_context(engine, kafka)):
        await drained(engine, kafka)
    return topics


@in_loop
async def test_messages_that_retention_took_are_told_and_not_stepped_over(kafka, store):
    topics = await read_some(kafka, store)
    await produce(kafka, topics.behaviors, [message(GOOD)] * 7)
    place = owner("ann", 8)
    with admin(kafka) as client:
        client.delete_records({PythonPartition(topics.behaviors, place): 205})
    before = content(store)
    said = await refusal(make_context(store, kafka))
    assert f"retention has taken 5 messages of {topics.behaviors}[{place}]" in said
    assert f"`interestream topics accept {topics.behaviors}`" in said
    assert content(store) == before
    accept(store, read_topic_offsets(kafka, [topics.behaviors])[topics.behaviors])
    async with running(make_context(store, kafka)):
        await drained(store, kafka)
    assert count(store, behaviors) == 201  # one new: the same behaviour twice is one


@in_loop
async def test_a_topic_made_anew_is_refused_even_while_running(kafka, store):
    topics = await read_some(kafka, store)
    await asyncio.to_thread(delete_topic, kafka, topics.behaviors)
    make_topics(kafka)
    await produce(kafka, topics.behaviors, [message(GOOD)])
    assert "was deleted and created again" in await refusal(make_context(store, kafka))
    accept(store, read_topic_offsets(kafka, [topics.behaviors])[topics.behaviors])
    async with running(make_context(store, kafka)):
        await drained(store, kafka)


@in_loop
async def test_another_number_of_partitions_is_refused(kafka, store):
    topics = await read_some(kafka, store)
    with admin(kafka) as client:
        client.create_partitions({topics.behaviors: 12})
    assert "has 12 partitions, the store has read 8" in await refusal(make_context(store, kafka))


@in_loop
async def test_a_topic_that_lost_messages_is_refused(kafka, store):
    topics = await read_some(kafka, store)
    with store.begin() as connection:  # what the store would say after a broker lost its last messages
        connection.execute(offsets.update().values(offset=10**6).where(offsets.c.source == source_of(topics.behaviors)))
    assert "the topic has lost messages" in await refusal(make_context(store, kafka))


@in_loop
async def test_another_policy_and_missing_topics_are_refused(kafka, store):
    assert "run `interestream topics create`" in await refusal(make_context(store, kafka))
    await read_some(kafka, store)
    assert "this store is partitioned by" in await refusal(make_context(store, kafka, count=7))
