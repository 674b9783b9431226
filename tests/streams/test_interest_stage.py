"""The interest stage on a real broker, a real store and a real HTTP server: the rows of `learn`, in order, whatever
fails.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, delete, func, select

from interest.answers import Usage, read_usage
from interest.backlog import Plan
from interest.learn import learn
from interest.llm import Request
from interest.scripted import reply
from interest.sql import writing
from interest.tables import answers, interests
from interest.types import Outcome, Partition
from streams.kafka import make_producer
from streams.settings import KafkaSettings
from streams.store import open_store
from streams.tables import outbox
from tests.contracts.chat_server import ChatServer
from tests.streams.interest_rig import (
    MODEL,
    Model,
    answer,
    at_end,
    closed,
    count,
    fill,
    killed,
    letters,
    make_context,
    make_topics,
    produce,
    rows,
    running,
    until,
    updates,
)


@pytest.fixture
def topics(kafka: KafkaSettings) -> KafkaSettings:
    return make_topics(kafka)


@pytest.fixture
def filled(store: Engine, sample_log: Path, tmp_path: Path) -> Engine:
    """Partitions of five users of ML-100K in a SQLite store."""
    fill(store, sample_log, tmp_path, users=5)
    return store


def learnt(sample: Path, folder: Path, users: int, **plan: Any) -> list[tuple[Any, ...]]:
    """The rows that `learn` writes over the same store with the same model."""
    engine = open_store(f"sqlite:///{folder / 'learnt.db'}")
    fill(engine, sample, folder, users=users)
    learn(engine, Model(), model=MODEL, plan=Plan(prompt_version="json-1", **plan))
    found = rows(engine)
    engine.dispose()
    return found


def left_over(store: Engine) -> int:
    with store.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(outbox)).scalar_one())


@pytest.mark.parametrize("chained", [False, True])
def test_the_rows_are_those_of_learn_and_each_is_announced_in_order(
    url: str, topics: KafkaSettings, sample_log: Path, tmp_path: Path, chained: bool
) -> None:
    engine = open_store(url)
    fill(engine, sample_log, tmp_path)
    announced = closed(engine)

    async def go() -> None:
        model = Model()
        with ChatServer(model) as server:
            context = make_context(engine, topics, url=server.url, model=MODEL, window=20, chained=chained)
            await produce(topics, announced)
            async with running(context):
                await until(lambda: count(engine) == len(announced), "every interest")
                await until(lambda: at_end(context), "the commit")
            assert len(model.seen) == len({msgspec.json.encode(one) for one in model.seen})
        said = await updates(context)
        assert [(one.user_id, one.index) for one in said if one.user_id == "1"] == [
            ("1", index) for index in range(sum(one.user_id == "1" for one in announced))
        ]
        by_user: dict[str, list[int]] = {}
        for one in said:
            by_user.setdefault(one.user_id, []).append(one.index)
        assert all(indices == list(range(len(indices))) for indices in by_user.values())
        assert len(said) == len(announced)
        latest = {one.user_id: one for one in await updates(context, context.topics.latest)}
        assert {user: one.index for user, one in latest.items()} == {user: max(by_user[user]) for user in by_user}
        stored = {(row[0], row[2]): row for row in rows(engine)}
        assert all(stored[one.user_id, one.index][4] == one.summary for one in said)
        assert left_over(engine) == 0
        registry = context.metrics.registry
        assert registry.get_sample_value("interestream_llm_calls_total", {"outcome": "ok"}) == len(model.seen)
        assert registry.get_sample_value("interestream_llm_in_flight") == 0

    asyncio.run(go())
    expected = learnt(sample_log, tmp_path, 10, chained=chained)
    assert rows(engine) == expected
    assert len({row[6] for row in expected}) > 1  # more than one outcome: the sample is worth comparing
    engine.dispose()


def test_without_an_llm_plain_sentences_are_written(
    filled: Engine, topics: KafkaSettings, sample_log: Path, tmp_path: Path
) -> None:
    async def go() -> None:
        announced = closed(filled)
        await produce(topics, announced)
        context = make_context(filled, topics)
        async with running(context):
            await until(lambda: at_end(context), "the commit")
        assert len(await updates(context)) == len(announced)

    asyncio.run(go())
    engine = open_store(f"sqlite:///{tmp_path / 'other.db'}")
    fill(engine, sample_log, tmp_path, users=5)
    learn(engine, None)
    assert rows(filled) == rows(engine)
    engine.dispose()


def test_what_has_its_interest_is_announced_without_a_call(filled: Engine, topics: KafkaSettings) -> None:
    learn(filled, Model(), model=MODEL, plan=Plan(prompt_version="json-1", users=("1",)))
    before = rows(filled)

    async def go() -> None:
        announced = [one for one in closed(filled) if one.user_id == "1"]
        await produce(topics, announced)
        with ChatServer(Model()) as server:
            context = make_context(filled, topics, url=server.url, model=MODEL)
            async with running(context):
                await until(lambda: at_end(context), "the commit")
            assert server.bodies == []
        assert [one.index for one in await updates(context)] == list(range(len(announced)))

    asyncio.run(go())
    assert rows(filled) == before


def test_plain_sentences_are_replaced_once_a_model_is_asked(filled: Engine, topics: KafkaSettings) -> None:
    learn(filled, None, plan=Plan(prompt_version="json-1", users=("1", "2")))

    async def go() -> None:
        announced = [one for one in closed(filled) if one.user_id in ("1", "2")]
        await produce(topics, announced)
        with ChatServer(Model()) as server:
            context = make_context(filled, topics, url=server.url, model=MODEL)
            async with running(context):
                await until(lambda: at_end(context), "the commit")
        said = await updates(context)
        assert Outcome.STATISTICS not in {one.summary_outcome for one in said}
        assert len(said) == len(announced)

    asyncio.run(go())


def test_sixty_four_calls_are_in_flight_and_the_window_bounds_what_is_in_hand(
    store: Engine, sample_log: Path, tmp_path: Path, topics: KafkaSettings
) -> None:
    fill(store, sample_log, tmp_path, users=20)

    async def go() -> None:
        announced = closed(store)
        await produce(topics, announced)
        model = Model()
        model.held = True
        with ChatServer(model) as server:
            context = make_context(store, topics, url=server.url, model=MODEL, window=70)
            async with running(context) as stage:
                await until(lambda: len(model.seen) == 64, "64 calls")
                await asyncio.sleep(1.0)
                assert (len(model.seen), server.most_at_once) == (64, 64)
                assert len(stage._hand) == stage._acked.in_hand == 70
                model.held = False
                while not at_end(context):
                    assert len(stage._hand) <= 70
                    await asyncio.sleep(0.02)
            assert server.most_at_once == 64
        assert count(store) == len(announced)

    asyncio.run(go())


@pytest.mark.parametrize("kill", [1, 12])
def test_killed_in_the_middle_no_call_is_made_twice_and_nothing_is_missing(
    url: str, topics: KafkaSettings, sample_log: Path, tmp_path: Path, kill: int
) -> None:
    engine = open_store(url)
    fill(engine, sample_log, tmp_path, users=5)
    announced = closed(engine)
    model = Model(wait_s=0.02)

    async def second() -> None:
        context = make_context(engine, topics, url=server.url, model=MODEL)
        async with running(context):
            await until(lambda: at_end(context), "the commit")
        said = await updates(context)
        assert {(one.user_id, one.index) for one in said} == {(one.user_id, one.index) for one in announced}
        texts: dict[tuple[str, int], set[bytes]] = {}
        for one in said:
            texts.setdefault((one.user_id, one.index), set()).add(msgspec.json.encode(one))
        assert all(len(same) == 1 for same in texts.values())  # twice is once
        last = {one.user_id: one.index for one in await updates(context, context.topics.latest)}
        assert last == {one.user_id: one.index for one in sorted(announced, key=lambda one: one.index)}

    with ChatServer(model) as server:
        asyncio.run(produce(topics, announced))
        context = make_context(engine, topics, url=server.url, model=MODEL, window=8, concurrent=4)
        killed(context, lambda: count(engine) >= kill)
        with engine.connect() as connection:
            stored = connection.execute(select(func.count()).select_from(answers)).scalar_one()
        before = len(model.seen)
        assert before - stored <= 4 + 8 * 3  # in flight, and answered within the last transaction's time
        asyncio.run(second())
    again = Counter(msgspec.json.encode(one) for one in model.seen)
    assert sum(again.values()) - len(again) <= before - stored
    assert rows(engine) == learnt(sample_log, tmp_path, 5)
    assert left_over(engine) == 0
    engine.dispose()


def test_a_clean_stop_in_the_middle_redoes_nothing(
    filled: Engine, topics: KafkaSettings, sample_log: Path, tmp_path: Path
) -> None:
    model = Model(wait_s=0.05)
    announced = closed(filled)

    async def go(server: ChatServer) -> None:
        await produce(topics, announced)
        context = make_context(filled, topics, url=server.url, model=MODEL, concurrent=8)
        async with running(context):
            await until(lambda: count(filled) >= 5, "some interests")
        assert count(filled) < len(announced)
        context = make_context(filled, topics, url=server.url, model=MODEL)
        async with running(context):
            await until(lambda: at_end(context), "the commit")
        assert len(await updates(context)) == len(announced)

    with ChatServer(model) as server:
        asyncio.run(go(server))
    assert len(model.seen) == len({msgspec.json.encode(one) for one in model.seen})
    assert rows(filled) == learnt(sample_log, tmp_path, 5)


def test_two_workers_share_the_work_and_the_counters(
    url: str, topics: KafkaSettings, sample_log: Path, tmp_path: Path
) -> None:
    engine = open_store(url)
    fill(engine, sample_log, tmp_path)
    announced = closed(engine)
    model = Model(wait_s=0.01)

    async def go(server: ChatServer) -> None:
        contexts = [make_context(engine, topics, url=server.url, model=MODEL, window=8) for _ in range(2)]
        async with running(contexts[0]):
            await produce(topics, announced[: len(announced) // 2])
            await until(lambda: count(engine) >= 3, "some interests")
            async with running(contexts[1]) as second:
                await produce(topics, announced[len(announced) // 2 :])
                await until(lambda: second._acked.settled and bool(second._acked.partitions), "the second has some")
                await until(lambda: count(engine) == len(announced), "every interest")
                await until(lambda: at_end(contexts[0]), "the commit")
        said = await updates(contexts[0])
        assert {(one.user_id, one.index) for one in said} == {(one.user_id, one.index) for one in announced}

    with ChatServer(model) as server:
        asyncio.run(go(server))
    assert rows(engine) == learnt(sample_log, tmp_path, 10)
    with engine.connect() as connection:
        spent = sum(read_usage(connection, MODEL, "json-1").values(), Usage())
        kept = connection.execute(select(func.count()).select_from(answers)).scalar_one()
    assert kept == len({msgspec.json.encode(one) for one in model.seen})
    assert spent.calls <= len(model.seen)  # a call given up in the hand-over is not counted
    assert spent.calls >= kept
    engine.dispose()


@pytest.mark.parametrize("status", [500, 429, 401, 404])
def test_a_server_in_trouble_or_wrongly_set_is_waited_for(
    filled: Engine, topics: KafkaSettings, sample_log: Path, tmp_path: Path, status: int
) -> None:
    async def go() -> None:
        await produce(topics, closed(filled))
        with ChatServer(Model(), fail_first=10**9, status=status) as server:
            context = make_context(filled, topics, url=server.url, model=MODEL, concurrent=4)
            async with running(context) as stage:
                await until(lambda: len(server.bodies) > 6, "calls again")
                assert "llm" in context.health.down
                assert str(status) in context.health.down["llm"]
                assert (count(filled), stage._acked.in_hand <= 256) == (0, True)
                server.failures = 0
                await until(lambda: at_end(context), "the commit")
                assert "llm" not in context.health.down
        retried = context.metrics.registry.get_sample_value(
            "interestream_retries_total",
            {"stage": "interest", "cause": "Denied" if status in (401, 404) else "Unavailable"},
        )
        assert retried

    asyncio.run(go())
    assert rows(filled) == learnt(sample_log, tmp_path, 5)


def test_a_server_that_hangs_is_given_up_and_asked_again(
    filled: Engine, topics: KafkaSettings, sample_log: Path, tmp_path: Path
) -> None:
    async def go() -> None:
        await produce(topics, closed(filled))
        model = Model()
        model.held = True
        with ChatServer(model) as server:
            context = make_context(filled, topics, url=server.url, model=MODEL, concurrent=4, timeout_s=0.5)
            async with running(context):
                await until(lambda: len(model.seen) > 6, "calls again")
                assert "no answer in 0.5 s" in context.health.down["llm"]
                model.held = False
                await until(lambda: at_end(context), "the commit")

    asyncio.run(go())
    assert rows(filled) == learnt(sample_log, tmp_path, 5)


def test_a_stop_while_the_server_hangs_keeps_the_deadline(filled: Engine, topics: KafkaSettings) -> None:
    async def go() -> None:
        await produce(topics, closed(filled))
        model = Model()
        model.held = True
        with ChatServer(model) as server:
            context = make_context(filled, topics, url=server.url, model=MODEL, drain_s=2.0)
            async with running(context):  # which asserts the deadline
                await until(lambda: len(model.seen) > 6, "calls")
            model.held = False
        assert count(filled) == 0

    asyncio.run(go())


@pytest.mark.parametrize(
    ("says", "outcome"),
    [
        (lambda _request: reply('{"text": "This user cho', "length"), Outcome.TRUNCATED),
        (lambda _request: "the moon is a balloon", Outcome.REJECTED),
        (lambda _request: '{"text": "nul \\u0000 and \\ud800", "evidence": [99999]}', Outcome.REJECTED),
    ],
)
def test_answers_that_cannot_be_used_are_typed_outcomes(
    url: str, topics: KafkaSettings, sample_log: Path, tmp_path: Path, says: Any, outcome: Outcome
) -> None:
    engine = open_store(url)
    fill(engine, sample_log, tmp_path, users=2)

    async def go() -> None:
        await produce(topics, closed(engine))
        model = Model()
        model.says = says
        with ChatServer(model) as server:
            context = make_context(engine, topics, url=server.url, model=MODEL)
            async with running(context):
                await until(lambda: at_end(context), "the commit")
            assert not context.health.down

    asyncio.run(go())
    assert {row[6] for row in rows(engine)} == {outcome}
    engine.dispose()


def test_a_request_that_is_refused_is_an_outcome_and_holds_nothing(filled: Engine, topics: KafkaSettings) -> None:
    async def go() -> None:
        await produce(topics, closed(filled))
        with ChatServer(Model(), fail_first=10**9, status=400) as server:
            context = make_context(filled, topics, url=server.url, model=MODEL)
            async with running(context):
                await until(lambda: at_end(context), "the commit")

    asyncio.run(go())
    assert {row[6] for row in rows(filled)} == {Outcome.REFUSED}


def test_a_user_forgotten_while_in_hand_does_not_come_back(filled: Engine, topics: KafkaSettings) -> None:
    from streams.forget import forget

    async def go() -> None:
        announced = closed(filled)
        await produce(topics, announced)
        model = Model()
        model.held = True
        with ChatServer(model) as server:
            context = make_context(filled, topics, url=server.url, model=MODEL)
            async with running(context) as stage:
                await until(lambda: len(stage._hand) == len(announced), "all in hand")
                await asyncio.to_thread(forget, filled, "1")
                model.held = False
                await until(lambda: at_end(context), "the commit")
        said = await updates(context)
        assert {one.user_id for one in said} == {"2", "3", "4", "5"}
        gone = sum(one.user_id == "1" for one in announced)
        assert context.metrics.registry.get_sample_value("interestream_skipped_total", {"stage": "interest"}) == gone
        await produce(topics, [one for one in announced if one.user_id == "1"])  # still on the topic: read once more
        async with running(make_context(filled, topics)) as stage:
            await until(lambda: at_end(context), "the commit")
        assert await letters(context) == []

    asyncio.run(go())
    with filled.connect() as connection:
        for table in (interests, answers, outbox):
            assert connection.execute(select(table.c.user_id).where(table.c.user_id == "1")).first() is None


def test_a_partition_of_another_store_is_a_dead_letter(filled: Engine, topics: KafkaSettings) -> None:
    async def go() -> None:
        stranger = msgspec.structs.replace(closed(filled)[0], user_id="stranger")
        await produce(topics, [stranger, *closed(filled)])
        producer = make_producer(topics)
        await producer.start()
        context = make_context(filled, topics)
        await producer.send_and_wait(context.topics.partitions, b'{"user_id": 7}', key=b"7", partition=0)
        await producer.send_and_wait(
            context.topics.partitions, msgspec.json.encode(closed(filled)[0]), key=b"another", partition=0
        )
        await producer.stop()
        async with running(context):
            await until(lambda: at_end(context), "the commit")
        found = await letters(context)
        reasons = sorted(one.reason for one in found)
        assert len(reasons) == 3
        assert any("has forgotten nobody" in one for one in reasons)
        assert any("the key is not the user_id" in one for one in reasons)
        (first,) = [one for one in found if "nobody" in one.reason]
        assert msgspec.json.decode(first.value or b"", type=Partition) == stranger

    asyncio.run(go())
    assert count(filled) == len(closed(filled))


def test_a_partition_announced_twice_is_written_once(filled: Engine, topics: KafkaSettings) -> None:
    async def go() -> None:
        announced = closed(filled)
        await produce(topics, [one for one in announced for _ in range(2)])
        model = Model(wait_s=0.01)
        with ChatServer(model) as server:
            context = make_context(filled, topics, url=server.url, model=MODEL)
            async with running(context):
                await until(lambda: at_end(context), "the commit")
        assert len(model.seen) == len({msgspec.json.encode(one) for one in model.seen})

    asyncio.run(go())
    assert count(filled) == len(closed(filled))


def test_the_store_gone_for_a_while_is_waited_for(
    filled: Engine, topics: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's lock, held longer than it waits: "database is locked"."""

    async def go() -> None:
        announced = closed(filled)
        await produce(topics, announced)
        other = open_store(filled.url.render_as_string())
        with ChatServer(Model()) as server:
            context = make_context(filled, topics, url=server.url, model=MODEL)
            with filled.connect() as connection:
                connection.exec_driver_sql("pragma busy_timeout=50")
            lock = other.connect()
            lock.exec_driver_sql("rollback")
            lock.exec_driver_sql("begin immediate")
            async with running(context):
                await until(lambda: "store" in context.health.down, "the report")
                assert count(filled) == 0
                lock.close()
                await until(lambda: at_end(context), "the commit")
                assert "store" not in context.health.down
        other.dispose()
        assert len(await updates(context)) == len(announced)

    asyncio.run(go())


def test_an_unforeseen_error_holds_one_partition_and_loses_nothing(
    filled: Engine, topics: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [True]
    checked = "interest.cascade.check"
    from interest.cascade import check

    def fails(text: str, ground: Any, asked: str, **options: Any) -> Any:
        if broken[0] and ground.facts.profile.get("occupation") == "writer":
            raise RuntimeError("nobody foresaw this")
        return check(text, ground, asked, **options)

    monkeypatch.setattr(checked, fails)

    async def go() -> None:
        announced = closed(filled)
        await produce(topics, announced)
        with ChatServer(Model()) as server:
            context = make_context(filled, topics, url=server.url, model=MODEL)
            async with running(context):
                others = sum(one.user_id != "3" for one in announced)
                await until(lambda: count(filled) >= others, "the others")
                assert "nobody foresaw this" in context.health.down["interest"]
                assert not at_end(context)
                broken[0] = False
                await until(lambda: at_end(context), "the commit")
        assert len(await updates(context)) == len(announced)

    asyncio.run(go())


def test_scripted_answers_are_worth_comparing(filled: Engine) -> None:
    """The model of these tests gives every kind of answer."""
    seen: list[Request] = []

    async def complete(request: Request) -> Any:
        seen.append(request)
        return reply(answer(request))

    learn(filled, complete, model=MODEL, plan=Plan(prompt_version="json-1"))
    said = Counter(answer(request)[:12] for request in seen)
    assert len(said) == 2
    with writing(filled) as connection:
        connection.execute(delete(interests))
