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

from interest.llm.cache import Usage, read_usage
from interest.llm.protocol import Request
from interest.llm.scripted import reply
from interest.store.sql import writing
from interest.store.tables import answers, interests
from interest.types import Outcome
from interest.write.backfill import learn
from interest.write.backlog import Plan
from streams.settings.schema import KafkaSettings
from streams.store.engine import open_store
from streams.store.tables import outbox
from tests.support.chat_server import ChatServer
from tests.support.interest_rig import (
    MODEL,
    Model,
    answer,
    at_end,
    closed,
    count,
    fill,
    killed,
    learnt,
    make_context,
    produce,
    rows,
    running,
    until,
    updates,
)


def left_over(store: Engine) -> int:
    with store.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(outbox)).scalar_one())


@pytest.mark.parametrize("chained", [False, True])
def test_the_rows_are_those_of_learn_and_each_is_announced_in_order(
    url: str, topics: KafkaSettings, sample_log: Path, tmp_path: Path, chained: bool
) -> None:
    engine = open_store(url)
    fill(engine, sample_log, tmp_path, users=6)
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
    expected = learnt(sample_log, tmp_path, 6, chained=chained)
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
    fill(store, sample_log, tmp_path, users=11)

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
                assert len(stage._in_flight) == stage._window.in_flight == 70
                model.held = False
                while not at_end(context):
                    assert len(stage._in_flight) <= 70
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
    fill(engine, sample_log, tmp_path, users=6)
    announced = closed(engine)
    model = Model(wait_s=0.01)

    async def go(server: ChatServer) -> None:
        contexts = [make_context(engine, topics, url=server.url, model=MODEL, window=8) for _ in range(2)]
        async with running(contexts[0]):
            await produce(topics, announced[: len(announced) // 2])
            await until(lambda: count(engine) >= 3, "some interests")
            async with running(contexts[1]) as second:
                await produce(topics, announced[len(announced) // 2 :])
                await until(lambda: second._window.settled and bool(second._window.partitions), "the second has some")
                await until(lambda: count(engine) == len(announced), "every interest")
                await until(lambda: at_end(contexts[0]), "the commit")
        said = await updates(contexts[0])
        assert {(one.user_id, one.index) for one in said} == {(one.user_id, one.index) for one in announced}

    with ChatServer(model) as server:
        asyncio.run(go(server))
    assert rows(engine) == learnt(sample_log, tmp_path, 6)
    with engine.connect() as connection:
        spent = sum(read_usage(connection, MODEL, "json-1").values(), Usage())
        kept = connection.execute(select(func.count()).select_from(answers)).scalar_one()
    assert kept == len({msgspec.json.encode(one) for one in model.seen})
    assert spent.calls <= len(model.seen)  # a call given up in the hand-over is not counted
    assert spent.calls >= kept
    engine.dispose()


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


def test_a_scene_s_texts_follow_its_own_partitions(topics: KafkaSettings, sample_log: Path, tmp_path: Path) -> None:
    """Live as `learn` writes them, chained, and announced in another order than that in which they were opened."""
    engine, other = (open_store(f"sqlite:///{tmp_path / name}.db") for name in ("live", "learnt"))
    for store in (engine, other):
        fill(store, sample_log, tmp_path, users=4, scenes=("home", "shop"))
    announced = closed(engine)
    assert [one.index for one in announced if one.user_id == "1"] != sorted(
        one.index for one in announced if one.user_id == "1"
    )
    model = Model()

    async def go() -> None:
        with ChatServer(model) as server:
            context = make_context(engine, topics, url=server.url, model=MODEL, window=20, chained=True)
            await produce(topics, announced)
            async with running(context):
                await until(lambda: at_end(context), "the commit")
        said = {(one.user_id, one.index): one.scene for one in await updates(context)}
        assert said == {(one.user_id, one.index): one.scene for one in announced}

    asyncio.run(go())
    learn(other, Model(), model=MODEL, plan=Plan(prompt_version="json-1", chained=True))
    assert rows(engine) == rows(other)
    asked = [one.messages[-1].content.splitlines()[0] for one in model.seen]
    assert set(asked) == {f'All of this is from the scene "{name}".' for name in ("home", "shop")}
    other.dispose()
    engine.dispose()
