"""The interest stage while the language model or the store is in trouble, or answers badly: nothing is lost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, insert, select

from interest.llm.scripted import reply
from interest.store.sql import writing
from interest.store.tables import answers, behaviors, interests, partitions
from interest.types import Outcome, Partition
from interest.write.backfill import learn
from interest.write.backlog import Plan, load
from interest.write.prompts import Style
from streams.kafka.clients import make_producer
from streams.settings.schema import KafkaSettings
from streams.store.engine import open_store
from streams.store.tables import outbox
from tests.support.chat_server import Body, ChatServer
from tests.support.interest_rig import (
    MODEL,
    Model,
    at_end,
    closed,
    count,
    fill,
    learnt,
    letters,
    make_context,
    produce,
    rows,
    running,
    until,
    updates,
)


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
                assert (count(filled), stage._window.in_flight <= 256) == (0, True)
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


def test_a_request_that_is_refused_while_others_are_answered_is_an_outcome(
    filled: Engine, topics: KafkaSettings
) -> None:
    mine = closed(filled)[3]
    with filled.connect() as connection:
        (work,) = load(connection, Plan(prompt_version="json-1"), [mine], ())
    shown = Plan(prompt_version="json-1").prompt().summary(work.evidence.facts, None, 0, Style()).messages[-1].content

    def filtered(body: Body) -> tuple[int, bytes] | None:
        return (400, b'{"error": {"message": "flagged"}}') if body["messages"][-1]["content"] == shown else None

    async def go() -> None:
        await produce(topics, closed(filled))
        with ChatServer(Model(), odd=filtered) as server:
            context = make_context(filled, topics, url=server.url, model=MODEL)
            async with running(context):
                await until(lambda: at_end(context), "the commit")
            assert not context.health.down

    asyncio.run(go())
    refused = [row[:3] for row in rows(filled) if row[5] == Outcome.REFUSED or row[6] == Outcome.REFUSED]
    assert refused == [(mine.user_id, mine.generation, mine.index)]


@pytest.mark.parametrize("words", ["API key not valid", "System role not supported"])
def test_a_refusal_of_everything_is_waited_for_and_said(
    filled: Engine, topics: KafkaSettings, sample_log: Path, tmp_path: Path, words: str
) -> None:
    async def go() -> None:
        await produce(topics, closed(filled))
        refusal = json.dumps({"error": {"message": words}}).encode()
        with ChatServer(Model(), odd=lambda _body: (400, refusal)) as server:
            context = make_context(filled, topics, url=server.url, model=MODEL, concurrent=4)
            async with running(context):
                await until(lambda: "llm" in context.health.down, "the refusal is said")
                asked = len(server.bodies)
                await until(lambda: len(server.bodies) > asked + 6, "calls again")
                assert words in context.health.down["llm"]
                assert any(words in why for why in context.health.reasons_not_ready(0.0))
                assert count(filled) == 0
                server.odd = None
                await until(lambda: at_end(context), "the commit")
                assert "llm" not in context.health.down

    asyncio.run(go())
    assert rows(filled) == learnt(sample_log, tmp_path, 5)


def test_a_user_forgotten_while_in_hand_does_not_come_back(filled: Engine, topics: KafkaSettings) -> None:
    from streams.store.forget import forget

    async def go() -> None:
        announced = closed(filled)
        await produce(topics, announced)
        model = Model()
        model.held = True
        with ChatServer(model) as server:
            context = make_context(filled, topics, url=server.url, model=MODEL)
            async with running(context) as stage:
                await until(lambda: len(stage._in_flight) == len(announced), "all in hand")
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


def come_back(store: Engine, user_id: str, *, same_times: bool) -> list[Partition]:
    """The user is forgotten and does as much again, with other films; the new partitions."""
    from streams.store.forget import forget

    with store.connect() as connection:
        old = [
            [dict(row) for row in connection.execute(select(table).where(table.c.user_id == user_id)).mappings()]
            for table in (behaviors, partitions)
        ]
    forget(store, user_id)
    later = 0.0 if same_times else 86_400.0
    did = [row | {"item_id": str(int(row["item_id"]) % 900 + 1), "at": row["at"] + later} for row in old[0]]
    heads = [
        row | {"opened_at": row["opened_at"] + later, "closed_at": row["closed_at"] + later, "reason": "gap"}
        if later
        else row
        for row in old[1]
    ]
    with writing(store) as connection:
        connection.execute(insert(behaviors), did)
        connection.execute(insert(partitions), heads)
    return [one for one in closed(store) if one.user_id == user_id]


def answers_of(store: Engine, user_id: str) -> set[str]:
    """The keys of the answers about a user: each a hash of what was asked."""
    with store.connect() as connection:
        return set(connection.execute(select(answers.c.key).where(answers.c.user_id == user_id)).scalars())


@pytest.mark.parametrize("same_times", [False, True])
def test_who_comes_back_with_other_behaviours_gets_no_text_of_those_forgotten(
    url: str, topics: KafkaSettings, sample_log: Path, tmp_path: Path, same_times: bool
) -> None:
    engine, other = open_store(url), open_store(f"sqlite:///{tmp_path / 'other.db'}")
    for each in (engine, other):
        fill(each, sample_log, tmp_path, users=2)

    async def go() -> None:
        announced = closed(engine)
        await produce(topics, announced)
        model = Model()
        model.held = True
        with ChatServer(model) as server:
            context = make_context(engine, topics, url=server.url, model=MODEL)
            async with running(context) as stage:
                await until(lambda: len(stage._in_flight) == len(announced), "all in hand")
                again = await asyncio.to_thread(come_back, engine, "1", same_times=same_times)
                await produce(topics, again)
                await until(lambda: stage._window.in_flight == len(announced) + len(again), "these too")
                model.held = False
                await until(lambda: at_end(context), "the commit")
        said = await updates(context)
        stored = {(row[0], row[2]): row[4] for row in rows(engine)}
        assert all(one.summary == stored[one.user_id, one.index] for one in said)
        assert await letters(context) == []

    asyncio.run(go())
    learn(other, Model(), model=MODEL, plan=Plan(prompt_version="json-1"))
    forgotten = answers_of(other, "1")
    come_back(other, "1", same_times=same_times)
    learn(other, Model(), model=MODEL, plan=Plan(prompt_version="json-1"))
    assert rows(engine) == rows(other)
    assert answers_of(engine, "1") & answers_of(other, "1")
    assert not answers_of(engine, "1") & forgotten
    other.dispose()
    engine.dispose()


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
    checked = "interest.write.cascade.check"
    from interest.write.cascade import check

    def fails(text: str, evidence: Any, asked: str, **options: Any) -> Any:
        if broken[0] and evidence.facts.profile.get("occupation") == "writer":
            raise RuntimeError("nobody foresaw this")
        return check(text, evidence, asked, **options)

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
