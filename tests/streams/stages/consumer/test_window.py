"""A window of a group's messages on a real broker: what is committed, hand-over, refusals, dead letters, lag."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from kafka import KafkaAdminClient, TopicPartition
from sqlalchemy import Engine

from streams.kafka.clients import KafkaError, admin, group_of, make_consumer, make_producer
from streams.kafka.dead_letter import read_letter
from streams.kafka.provision import create_topics
from streams.kafka.topics import Topics, dead_of
from streams.observability.health import Health
from streams.observability.metrics import Metrics
from streams.settings.schema import KafkaSettings, Settings
from streams.stages.consumer.accept import accept_group_offsets
from streams.stages.consumer.message import Message
from streams.stages.consumer.offsets import read_group_offsets
from streams.stages.consumer.window import MessageWindow
from streams.stages.stage import Context
from tests.support.topics import delete_topic

PATIENCE_S = 40.0


def decode(_key: bytes | None, value: bytes | None) -> int:
    return msgspec.json.decode(value or b"", type=int)


@pytest.fixture
def context(kafka: KafkaSettings, store: Engine) -> Context:
    kafka = msgspec.structs.replace(kafka, partitions=2)
    create_topics(kafka)
    return Context(settings=Settings(kafka=kafka), engine=store, metrics=Metrics(), health=Health())


def topic_of(context: Context) -> str:
    return Topics(context.settings.kafka.prefix).partitions


async def produce(context: Context, values: dict[int, list[bytes | None]]) -> None:
    producer = make_producer(context.settings.kafka)
    await producer.start()
    for partition, batch in values.items():
        for value in batch:
            await producer.send(topic_of(context), value, key=b"u", partition=partition)
    await producer.stop()


@asynccontextmanager
async def reading(context: Context, **options: Any) -> AsyncIterator[MessageWindow[int]]:
    """A window of the topic, which stops cleanly at the end."""
    producer = make_producer(context.settings.kafka)
    await producer.start()
    asked = {"decode": decode, "size": 100, "remedy": "mend it"} | options
    window: MessageWindow[int] = MessageWindow(
        context, stage="interest", topic=topic_of(context), producer=producer, **asked
    )
    await window.start()
    try:
        yield window
    finally:
        await window.stop(5.0)
        await producer.stop()


async def taken(window: MessageWindow[int], count: int) -> list[Message[int]]:
    """So many messages, or fewer after a while."""
    found: list[Message[int]] = []
    end = time.monotonic() + PATIENCE_S
    while len(found) < count and time.monotonic() < end:
        found += await window.take()
    return found


async def until(true: Callable[[], bool | Awaitable[bool]]) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        answer = true()
        if answer is True or (answer is not False and await answer):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come about")


def committed(context: Context) -> dict[int, int | None]:
    kafka = context.settings.kafka
    offsets = read_group_offsets(kafka, group_of(kafka, "interest"), topic_of(context))
    return {partition: one.committed for partition, one in offsets.by_partition.items()}


def numbers(count: int) -> list[bytes | None]:
    return [b"%d" % n for n in range(count)]


def test_only_what_lies_before_the_first_unfinished_message_is_committed(context: Context) -> None:
    async def go() -> None:
        await produce(context, {0: numbers(10), 1: numbers(3)})
        async with reading(context) as window:
            found = await taken(window, 13)
            window.acknowledge(one for one in found if (one.partition, one.offset) != (0, 4))
            await until(lambda: committed(context) == {0: 4, 1: 3})
            assert window.in_flight == 1
        assert committed(context) == {0: 4, 1: 3}
        async with reading(context) as window:
            again = await taken(window, 1)
            assert [(one.partition, one.offset, one.value) for one in again] == [(0, 4, 4)]  # and none that was done
            assert await window.take() == []
            window.acknowledge(again)
        assert committed(context) == {0: 10, 1: 3}  # by stop, without waiting for the next second

    asyncio.run(go())


def test_no_more_than_the_window_is_in_hand_and_partitions_share_it(context: Context) -> None:
    async def go() -> None:
        await produce(context, {0: numbers(500), 1: numbers(20)})
        async with reading(context, size=10) as window:
            seen: list[Message[int]] = []
            by_time: list[int] = []
            while len(seen) < 520:
                found = await window.take()
                assert window.in_flight <= 10
                if window.in_flight == 10:
                    assert await window.take(timeout_s=0.01) == []
                seen += found
                by_time += [one.partition for one in found]
                window.acknowledge(found)
            assert [one.value for one in seen if one.partition == 0] == list(range(500))
            assert [one.value for one in seen if one.partition == 1] == list(range(20))
            assert by_time.index(1) < 100  # not after all of the other partition

    asyncio.run(go())


def test_one_message_that_does_not_finish_bounds_how_far_reading_goes_ahead(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.stages.consumer.window.MAX_AHEAD", 50)

    async def go() -> None:
        await produce(context, {0: numbers(300)})
        async with reading(context, size=20) as window:
            (held, *rest) = await taken(window, 1)
            count = 1 + len(rest)
            window.acknowledge(rest)
            for _ in range(20):
                found = await window.take(timeout_s=0.05)
                count += len(found)
                window.acknowledge(found)
            assert 50 <= count <= 50 + 20
            window.acknowledge([held])
            while count < 300:
                found = await window.take()
                count += len(found)
                window.acknowledge(found)

    asyncio.run(go())


def test_what_cannot_be_decoded_is_a_dead_letter_and_no_message(context: Context) -> None:
    bad = [b"{", None, b"\xff", b'"text"', b"[" * 100_000]

    async def go() -> None:
        await produce(context, {0: [b"1", *bad, b"2"]})
        async with reading(context) as window:
            found = await taken(window, 2)
            assert [one.value for one in found] == [1, 2]
            window.acknowledge(found)
        assert committed(context)[0] == 7
        dead = make_consumer(context.settings.kafka)
        await dead.start()
        places = [TopicPartition(dead_of(topic_of(context)), n) for n in range(2)]
        from aiokafka import TopicPartition as Place

        dead.assign([Place(*place) for place in places])
        await dead.seek_to_beginning()
        letters = []
        while len(letters) < len(bad):
            for batch in (await dead.getmany(timeout_ms=1000)).values():
                letters += [read_letter(one.value, one.headers) for one in batch]
        await dead.stop()
        by_offset = {one.offset: one for one in letters}
        assert [by_offset[n + 1].value for n in range(len(bad))] == bad
        assert all(one.reason and one.key == b"u" and one.topic == topic_of(context) for one in letters)

    asyncio.run(go())


def test_a_second_worker_takes_over_where_the_first_has_committed(context: Context) -> None:
    async def go() -> None:
        await produce(context, {0: numbers(40), 1: numbers(40)})
        given: list[list[int]] = []

        async def assigned(partitions: Collection[int]) -> None:
            given.append(sorted(partitions))

        async with reading(context, on_assigned=assigned) as first:
            found = await taken(first, 80)
            kept = [one for one in found if one.offset >= 30]
            first.acknowledge(one for one in found if one.offset < 30)
            async with reading(context, on_revoked=_at_once) as second:
                both: dict[int, list[int]] = {0: [], 1: []}

                async def drain(window: MessageWindow[int]) -> bool:
                    for one in await window.take():
                        both[one.partition].append(one.offset)
                        window.acknowledge([one])
                    return all(len(offsets) >= 10 for offsets in both.values())

                await until(lambda: _either(drain(first), drain(second)))
                assert all(one.lost for one in kept)
                first.acknowledge(kept)  # does nothing: they are another's now
                assert both == {0: list(range(30, 40)), 1: list(range(30, 40))}
        assert given[0] == [0, 1]
        assert sorted(map(len, given[1:])) == [1] or len(given) > 1
        assert committed(context) == {0: 40, 1: 40}

    asyncio.run(go())


def test_a_rebalance_gives_one_assignment_and_ends_the_one_before(context: Context) -> None:
    async def go() -> None:
        await produce(context, {0: numbers(5), 1: numbers(5)})
        given: list[list[int]] = []

        async def assigned(partitions: Collection[int]) -> None:
            given.append(sorted(partitions))

        async with reading(context, on_assigned=assigned) as first:
            first.acknowledge(await taken(first, 10))
            alone = first.consumer.assignment
            assert alone is not None
            assert await first.take() == []
            assert first.consumer.assignment is alone
            async with reading(context) as second:

                async def shared() -> bool:
                    assert await first.take(timeout_s=0.05) == []
                    assert await second.take(timeout_s=0.05) == []
                    return sorted(first.partitions + second.partitions) == [0, 1] and len(first.partitions) == 1

                await until(shared)
                assert alone.revoked
                half = first.consumer.assignment
                assert half is not None
                assert half.generation > alone.generation
                assert await first.take() == []
                assert first.consumer.assignment is half
                assert (given[0], given[-1]) == ([0, 1], first.partitions)
                # an error has the offsets read anew: another assignment of the same rebalance
                first.consumer.invalidate()
                assert half.revoked
                assert await first.take() == []
                again = first.consumer.assignment
                assert again is not None
                assert again.generation == half.generation
                assert again.partitions == half.partitions

    asyncio.run(go())


async def _at_once(_partitions: Collection[int]) -> None:
    return


async def _either(one: Awaitable[bool], other: Awaitable[bool]) -> bool:
    return any(await asyncio.gather(one, other))


def test_what_is_in_hand_may_be_finished_before_a_partition_goes(context: Context) -> None:
    async def go() -> None:
        await produce(context, {0: numbers(5), 1: numbers(5)})
        async with reading(context) as first:
            found = await taken(first, 10)
            joining = asyncio.create_task(_join(context))
            await until(lambda: first.consumer.assignment is not None and first.consumer.assignment.releasing)
            assert await first.take(timeout_s=0.01) == []
            first.acknowledge(found)
            other = await joining
            assert committed(context) == {0: 5, 1: 5}
            await other()

    asyncio.run(go())


async def _join(context: Context) -> Callable[[], Awaitable[None]]:
    """A second worker; returns once it has been given its partitions."""
    manager = reading(context)
    window = await manager.__aenter__()

    async def settled() -> bool:
        assert await window.take(timeout_s=0.05) == []
        return window.settled

    await until(settled)

    async def leave() -> None:
        await manager.__aexit__(None, None, None)

    return leave


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


def test_lag_is_shown_while_nothing_is_finished(context: Context) -> None:
    async def go() -> None:
        await produce(context, {0: numbers(30)})
        async with reading(context, size=5) as window:
            found = await taken(window, 5)
            labels = {"stage": "interest", "topic": topic_of(context), "partition": "0"}
            registry = context.metrics.registry

            def lag() -> float | None:
                return registry.get_sample_value("interestream_lag", labels)

            await until(lambda: lag() == 30)
            assert context.health.stuck_for(time.monotonic() + 100) > 99
            window.acknowledge(found)
            await until(lambda: lag() == 25)
            assert context.health.stuck_for(time.monotonic() + 100) < 101

    asyncio.run(go())


def test_lag_ends_behind_a_control_record(context: Context) -> None:
    """A transaction's end mark is an offset without a message."""

    async def go() -> None:
        producer = make_producer(context.settings.kafka, transactional_id="t", enable_idempotence=True)
        await producer.start()
        async with producer.transaction():
            for value in numbers(3):
                await producer.send(topic_of(context), value, key=b"u", partition=0)
        await producer.stop()
        async with reading(context) as window:
            window.acknowledge(await taken(window, 3))
            assert await window.take() == []
            await until(lambda: committed(context)[0] == 4)

    asyncio.run(go())
