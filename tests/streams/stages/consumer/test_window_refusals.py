"""What a window of a group's messages refuses to go on from, on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from kafka import KafkaAdminClient, TopicPartition

from streams.kafka.clients import KafkaError, admin
from streams.kafka.provision import create_topics
from streams.stages.consumer.accept import accept_group_offsets
from streams.stages.stage import Context
from tests.support.topics import delete_topic
from tests.support.window_rig import committed, numbers, produce, reading, taken, topic_of


@pytest.fixture
def client(context: Context) -> Iterator[KafkaAdminClient]:
    with admin(context.settings.kafka) as client:
        yield client


def _work_off(context: Context, count: int) -> None:
    async def go() -> None:
        await produce(context, {0: numbers(count)})
        async with reading(context) as window:
            window.acknowledge(await taken(window, count))

    asyncio.run(go())


def _refused(context: Context) -> str:
    async def go() -> str:
        async with reading(context) as window:
            with pytest.raises(KafkaError) as refused:
                await taken(window, 1)
            return str(refused.value)

    return asyncio.run(go())


def test_messages_gone_by_retention_are_refused_with_their_number(context: Context, client: KafkaAdminClient) -> None:
    _work_off(context, 5)
    asyncio.run(produce(context, {0: numbers(20)}))
    client.delete_records({TopicPartition(topic_of(context), 0): 12})
    said = _refused(context)
    assert f"7 messages of {topic_of(context)}[0] are gone" in said
    assert "mend it" in said
    assert committed(context)[0] == 5  # nothing was reset
    (change,) = accept_group_offsets(context.engine, context.settings.kafka, "interest", topic_of(context))
    assert (change.partition, change.before, change.after, change.gone) == (0, 5, 12, 7)
    asyncio.run(_reads(context, list(range(7, 20))))


def test_messages_gone_while_the_worker_waits_are_refused_too(context: Context, client: KafkaAdminClient) -> None:
    async def go() -> None:
        await produce(context, {0: [b"%5000d" % n for n in range(2000)]})  # 10 MB: more than is read ahead
        async with reading(context, size=3) as window:
            found = await taken(window, 3)
            client.delete_records({TopicPartition(topic_of(context), 0): 2000})
            await produce(context, {0: numbers(5)})
            window.acknowledge(found)

            async def read_on() -> None:
                while True:  # what was read ahead is still good
                    window.acknowledge(found := await window.take())
                    assert all(one.offset < 2000 for one in found)

            with pytest.raises(KafkaError, match="gone by retention"):
                await read_on()

    asyncio.run(go())


def test_a_topic_made_again_is_refused(context: Context) -> None:
    _work_off(context, 5)
    delete_topic(context.settings.kafka, topic_of(context))
    create_topics(context.settings.kafka)
    asyncio.run(produce(context, {0: numbers(20)}))
    said = _refused(context)
    assert "deleted and made again" in said
    assert "mend it" in said
    assert accept_group_offsets(context.engine, context.settings.kafka, "interest", topic_of(context)) == []
    asyncio.run(_reads(context, list(range(20))))


async def _reads(context: Context, values: list[int]) -> None:
    async with reading(context) as window:
        assert [one.value for one in await taken(window, len(values))] == values


def test_another_number_of_partitions_is_refused(context: Context, client: KafkaAdminClient) -> None:
    _work_off(context, 2)
    client.create_partitions({topic_of(context): 3})
    assert "has 3 partitions, the settings say 2" in _refused(context)
