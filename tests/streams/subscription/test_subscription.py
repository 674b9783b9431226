"""Subscribers on a real Kafka: where they begin, how they go on, what they survive."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from deploy.kafka.node import Node
from interest.errors import InputError
from interest.types import Outcome, Reason, Source
from streams import InterestUpdate, RepresentationUpdate, subscribe
from streams.kafka.clients import KafkaError, admin, make_producer
from streams.kafka.partitioner import Partitioner
from streams.kafka.provision import create_topics
from streams.kafka.topics import Topics
from streams.settings.schema import KafkaSettings
from streams.subscription.subscription import Subscription

COMMAND = Path(sys.executable).parent / "interestream"
PARTITIONS = 3
USERS = [f"u{number}" for number in range(9)]


@pytest.fixture
def topics(kafka: KafkaSettings) -> KafkaSettings:
    settings = msgspec.structs.replace(kafka, partitions=PARTITIONS)
    create_topics(settings)
    return settings


def update(user: str, index: int) -> InterestUpdate:
    return InterestUpdate(
        user_id=user, index=index, prompt_version="json-1", summary=f"{user} likes number {index}",
        summary_source=Source.LLM, summary_outcome=Outcome.OK, shift="more of it" if index else "",
        shift_source=Source.LLM, shift_outcome=Outcome.OK, evidence=(1, 2), claims=2, supported=2, model="m",
        opened_at=1_700_000_000.0, closed_at=1_700_086_400.0 + index, behaviors=50, reason=Reason.COUNT,
    )  # fmt: skip


def publish(
    settings: KafkaSettings, updates: Iterable[InterestUpdate | RepresentationUpdate | bytes | None],
    *, topic: str | None = None, at: float | None = None,
) -> None:  # fmt: skip
    async def send() -> None:
        async with make_producer(settings) as producer:
            for one in updates:
                user = one.user_id if isinstance(one, msgspec.Struct) else "u0"
                value = msgspec.json.encode(one) if isinstance(one, msgspec.Struct) else one
                await producer.send_and_wait(
                    topic or Topics(settings.prefix).updates, value, key=user.encode(),
                    partition=Partitioner(PARTITIONS)[user], timestamp_ms=int(at * 1000) if at else None,
                )  # fmt: skip

    asyncio.run(send())


def everything(rounds: Iterable[int]) -> list[InterestUpdate]:
    return [update(user, index) for index in rounds for user in USERS]


def by_user(updates: Iterable[InterestUpdate]) -> list[tuple[str, int]]:
    """Order holds within a user only."""
    return sorted((one.user_id, one.index) for one in updates)


def test_from_the_beginning_all_is_read_and_each_users_in_order(topics: KafkaSettings) -> None:
    sent = everything(range(4))
    publish(topics, sent)
    with subscribe(start="beginning", settings=topics, follow=False) as subscription:
        got = list(subscription)
    assert sorted(got, key=lambda one: (one.index, one.user_id)) == sent
    assert [one.index for one in got if one.user_id == "u3"] == [0, 1, 2, 3]
    assert subscription.skipped == 0


def test_the_async_twin_reads_the_same(topics: KafkaSettings) -> None:
    publish(topics, everything(range(4)))

    async def read() -> list[InterestUpdate]:
        async with subscribe(start="beginning", settings=topics, follow=False) as subscription:
            return [one async for one in subscription]

    assert by_user(asyncio.run(read())) == by_user(everything(range(4)))


def test_now_is_when_it_was_opened(topics: KafkaSettings) -> None:
    publish(topics, everything([0]))
    with subscribe(settings=topics) as subscription:
        publish(topics, everything([1]))
        assert by_user(islice(subscription, 9)) == by_user(everything([1]))


def test_a_moment_means_the_messages_produced_since(topics: KafkaSettings) -> None:
    noon = time.time() - 3600
    publish(topics, everything([0]), at=noon - 60)
    publish(topics, everything([1]), at=noon + 60)
    for start in (noon, datetime.fromtimestamp(noon, UTC)):
        assert by_user(subscribe(start=start, settings=topics, follow=False)) == by_user(everything([1]))
    assert list(subscribe(start=time.time() + 60, settings=topics, follow=False)) == []
    with pytest.raises(InputError, match="time zone"):
        list(subscribe(start=datetime(2026, 1, 1), settings=topics))


def test_positions_go_on_where_they_were_saved(topics: KafkaSettings) -> None:
    publish(topics, everything(range(3)))
    with subscribe(start="beginning", settings=topics) as first:
        begun = list(islice(first, 10))
        saved = json.loads(json.dumps({str(place): offset for place, offset in first.positions().items()}))
    rest = subscribe(
        start={int(place): offset for place, offset in saved.items()}, settings=topics, follow=False
    )  # fmt: skip
    assert by_user([*begun, *rest]) == by_user(everything(range(3)))
    assert by_user([*begun, *islice(first, 17)]) == by_user(everything(range(3)))  # the same one goes on too


def test_a_group_goes_on_and_the_one_in_hand_comes_again(topics: KafkaSettings) -> None:
    publish(topics, everything(range(3)))
    group = f"{topics.prefix}readers"
    begun: list[InterestUpdate] = []
    with subscribe(start="beginning", group=group, settings=topics) as first:
        for one in first:
            if len(begun) == 10:
                break  # the eleventh was in hand when the process ended: it is not done
            begun.append(one)
    rest = list(subscribe(start="beginning", group=group, settings=topics, follow=False))
    assert by_user([*begun, *rest]) == by_user(everything(range(3)))
    assert list(subscribe(start="beginning", group=group, settings=topics, follow=False)) == []
    publish(topics, everything([3]))

    async def read() -> list[InterestUpdate]:
        return [one async for one in subscribe(group=group, settings=topics, follow=False)]

    assert by_user(asyncio.run(read())) == by_user(everything([3]))  # a group's members may be of either kind
    assert list(subscribe(group=group, settings=topics, follow=False)) == []


def test_two_members_of_a_group_share_the_users(topics: KafkaSettings) -> None:
    group = f"{topics.prefix}readers"
    seen: list[list[InterestUpdate]] = [[], []]

    async def member(number: int, done: asyncio.Event) -> None:
        async with subscribe(start="beginning", group=group, settings=topics) as subscription:
            async for one in subscription:
                seen[number].append(one)
                if len({(u.user_id, u.index) for part in seen for u in part}) == 9 * 40:
                    done.set()

    async def both() -> None:
        done = asyncio.Event()
        members = [asyncio.create_task(member(number, done)) for number in range(2)]
        index = 0
        while not done.is_set():
            if index < 40:
                await asyncio.to_thread(publish, topics, everything([index]))
                index += 1
            await asyncio.sleep(0.2)
            assert not any(one.done() for one in members)
        for one in members:
            one.cancel()
        await asyncio.gather(*members, return_exceptions=True)

    asyncio.run(asyncio.wait_for(both(), 120))
    assert {(u.user_id, u.index) for part in seen for u in part} == set(by_user(everything(range(40))))


def test_only_the_users_asked_for_and_only_their_partitions(topics: KafkaSettings) -> None:
    publish(topics, everything(range(2)))
    one = subscribe("u4", start="beginning", settings=topics, follow=False)
    assert by_user(one) == [("u4", 0), ("u4", 1)]
    assert set(one.positions()) == {Partitioner(PARTITIONS)["u4"]}
    two = subscribe({"u4", "u5"}, "beginning", f"{topics.prefix}g", settings=topics, follow=False)
    assert by_user(two) == [("u4", 0), ("u4", 1), ("u5", 0), ("u5", 1)]
    with pytest.raises(InputError, match="names nobody"):
        subscribe([], settings=topics)


def test_what_is_no_update_is_skipped_and_counted(topics: KafkaSettings) -> None:
    publish(topics, [update("u0", 0), b"not json", b'{"user_id": 3}', None, b"\xff", update("u0", 1)])
    warned: list[str] = []
    subscription = subscribe(start="beginning", settings=topics, follow=False, warn=warned.append)
    assert by_user(subscription) == [("u0", 0), ("u0", 1)]
    assert subscription.skipped == len(warned) == 3  # a tombstone is none: the user was forgotten
    assert "offset 1 is not an update" in warned[0]


def test_other_topics(topics: KafkaSettings) -> None:
    names = Topics(topics.prefix)
    vector = RepresentationUpdate(user_id="u1", index=2, artifact="pooled:x", vector=b"\0\0\x80?" * 3)
    publish(topics, [vector], topic=names.representations)
    publish(topics, [update("u1", 7)], topic=names.latest)
    (got,) = subscribe(start="beginning", topic="representations", settings=topics, follow=False)
    assert (got, got.floats()) == (vector, (1.0, 1.0, 1.0))
    assert by_user(subscribe(start="beginning", topic="latest", settings=topics, follow=False)) == [("u1", 7)]
    with pytest.raises(InputError, match="no topic 'behaviors'"):
        subscribe(topic="behaviors", settings=topics)  # type: ignore[call-overload]


def collect(subscription: Subscription[InterestUpdate], kind: str, most: int | None = None) -> list[InterestUpdate]:
    async def read() -> list[InterestUpdate]:
        got = []
        async for one in subscription:
            got.append(one)
            if len(got) == most:
                break
        await subscription.aclose()
        return got

    return list(islice(subscription, most)) if kind == "for" else asyncio.run(read())


@pytest.mark.parametrize("kind", ["for", "async for"])
def test_of_latest_each_users_newest_comes_once_and_then_what_is_new(topics: KafkaSettings, kind: str) -> None:
    latest = Topics(topics.prefix).latest
    publish(topics, [*everything(range(3)), update("u4", 3), None], topic=latest)  # u0 was forgotten
    newest = [("u4", 3)] + [(user, 2) for user in USERS if user not in ("u0", "u4")]
    subscription = subscribe(start="beginning", topic="latest", settings=topics)
    with subscription:
        assert by_user(collect(subscription, kind, 8)) == sorted(newest)
        publish(topics, [update("u1", 3), update("u1", 4), None, update("u0", 9)], topic=latest)
        live = collect(subscription, kind, 2)  # goes on from its positions: u1's third is not the newest any more
        assert sorted((one.user_id, one.index) for one in live) == [("u0", 9), ("u1", 4)]

    with subscribe(start="now", topic="latest", settings=topics) as following:
        publish(topics, [update("u2", 3), update("u2", 4)], topic=latest)
        assert by_user(collect(following, kind, 2)) == [("u2", 3), ("u2", 4)]  # as it happens, each is the newest


def test_of_latest_a_part_that_was_read_goes_on_and_a_moment_and_users_narrow(topics: KafkaSettings) -> None:
    latest, noon = Topics(topics.prefix).latest, time.time() - 3600
    publish(topics, everything([0]), topic=latest, at=noon - 60)
    publish(topics, [one for one in everything([1, 2]) if one.user_id < "u5"], topic=latest, at=noon + 60)
    with subscribe(start="beginning", topic="latest", settings=topics) as first:
        begun = list(islice(first, 4))
    rest = subscribe(start=first.positions(), topic="latest", settings=topics, follow=False)
    assert by_user([*begun, *rest]) == [(user, 2 if user < "u5" else 0) for user in USERS]
    since = subscribe(start=noon, topic="latest", settings=topics, follow=False)
    assert by_user(since) == [(user, 2) for user in USERS if user < "u5"]
    some = subscribe({"u4", "u5"}, "beginning", topic="latest", settings=topics, follow=False)
    assert by_user(some) == [("u4", 2), ("u5", 0)]
    group = subscribe(
        start="beginning", group=f"{topics.prefix}g", topic="latest", settings=topics, follow=False
    )  # fmt: skip
    assert len(list(group)) == 9 + 10


def test_the_command_prints_a_line_a_user(topics: KafkaSettings) -> None:
    publish(topics, everything(range(3)), topic=Topics(topics.prefix).latest)
    out, err = run(topics, "--topic", "latest", "--from", "beginning", "--no-follow", "--json").communicate()
    got = [msgspec.json.decode(line, type=InterestUpdate) for line in out.splitlines()]
    assert by_user(got) == [(user, 2) for user in USERS], err


def test_no_topic_and_no_broker_are_told(kafka: KafkaSettings) -> None:
    with pytest.raises(KafkaError, match="interestream topics create"):
        list(subscribe(settings=kafka))
    with pytest.raises(KafkaError, match="no Kafka answers"):
        list(subscribe(settings=KafkaSettings(brokers="127.0.0.1:9")))


def test_a_position_that_retention_passed_is_refused(topics: KafkaSettings) -> None:
    from kafka import TopicPartition

    group, name = f"{topics.prefix}readers", Topics(topics.prefix).updates
    publish(topics, everything(range(2)))
    with subscribe(start="beginning", group=group, settings=topics) as subscription:
        list(islice(subscription, 2))
    with admin(topics) as client:
        client.delete_records({TopicPartition(name, number): -1 for number in range(PARTITIONS)})
    with pytest.raises(KafkaError, match="removed by retention"):
        list(subscribe(group=group, settings=topics))
    with pytest.raises(KafkaError, match="made again"):
        list(subscribe(start=dict.fromkeys(range(PARTITIONS), 999), settings=topics))


@pytest.mark.parametrize(("kind", "group"), [("for", None), ("async for", "readers")])
def test_a_broker_that_restarts_is_waited_for(own_node: Node, kind: str, group: str | None) -> None:
    node = own_node
    settings = KafkaSettings(brokers=node.bootstrap, partitions=PARTITIONS, session_timeout_s=6.0)
    warned: list[str] = []

    def restart() -> None:
        node.kill()
        while not warned:
            subscription._check_broker()
            time.sleep(0.1)
        node.start()
        publish(settings, everything([1]))

    async def read_async() -> list[InterestUpdate]:
        got: list[InterestUpdate] = []
        async for one in subscription:
            got.append(one)
            if len(got) == 9:
                await asyncio.to_thread(restart)
            if len(set(by_user(got))) == 18:
                break
        await subscription.aclose()
        return got

    def read_on() -> list[InterestUpdate]:
        got: list[InterestUpdate] = []
        with subscription:
            for one in subscription:
                got.append(one)
                if len(got) == 9:
                    restart()
                if len(set(by_user(got))) == 18:
                    break
        return got

    with warnings.catch_warnings():
        # kafka-python leaves the sockets of failed attempts to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            create_topics(settings)
            publish(settings, everything([0]))
            subscription = subscribe(start="beginning", group=group, settings=settings, warn=warned.append)
            got = read_on() if kind == "for" else asyncio.run(read_async())
            assert set(by_user(got)) == set(by_user(everything([0, 1])))
            assert len(got) == 18 or group is not None
            assert "waiting for it" in warned[0]
        finally:
            gc.collect()


def run(settings: KafkaSettings, *arguments: str) -> subprocess.Popen[str]:
    environment = {"INTERESTREAM_KAFKA": settings.brokers, "INTERESTREAM_KAFKA_PREFIX": settings.prefix}
    return subprocess.Popen(
        [COMMAND, "subscribe", *arguments], env=os.environ | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_the_command_prints_json_lines(topics: KafkaSettings) -> None:
    publish(topics, everything(range(2)))
    out, err = run(topics, "--from", "beginning", "--no-follow", "--json", "--user", "u1", "--user", "u2").communicate()
    got = [msgspec.json.decode(line, type=InterestUpdate) for line in out.splitlines()]
    assert by_user(got) == [("u1", 0), ("u1", 1), ("u2", 0), ("u2", 1)], err


def test_the_command_prints_pages_follows_and_ends_with_ctrl_c(topics: KafkaSettings) -> None:
    publish(topics, [update("u1", 3)])
    process = run(topics, "--from", "2020-01-01T00:00")
    assert process.stdout is not None
    page = [process.stdout.readline().strip() for _ in range(4)]
    assert page[0] == "user u1 · partition 3 · 2023-11-14 22:13 – 2023-11-15 22:13 · 50 behaviours"
    assert page[1:3] == ["u1 likes number 3", "shift: more of it"]
    assert page[3] == "by llm (m), ok; closed by count"
    publish(topics, [update("u2", 0)])
    assert process.stdout.readline() == "\n"
    assert process.stdout.readline().startswith("user u2")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")


def test_a_closed_pipe_ends_the_command_quietly(topics: KafkaSettings) -> None:
    publish(topics, everything(range(3)))
    process = run(topics, "--from", "beginning", "--json", "--no-follow")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) == 0


def test_a_start_that_is_none_is_told() -> None:
    done = subprocess.run([COMMAND, "subscribe", "--from", "tomorrow"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--from tomorrow: give beginning, now" in done.stderr
