"""A window of a group's messages on a real broker: what is committed, hand-over, dead letters, lag."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection

import pytest
from kafka import TopicPartition

from streams.kafka.clients import make_consumer, make_producer
from streams.kafka.dead_letter import read_letter
from streams.kafka.topics import dead_of
from streams.stages.consumer.message import Message
from streams.stages.consumer.window import MessageWindow
from streams.stages.stage import Context
from tests.support.window_rig import committed, numbers, produce, reading, taken, topic_of, until


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
