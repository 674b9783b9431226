"""The language model's server is gone, fails, hangs, cuts its answers off or answers nonsense: what waits is held and
goes on, what can never be good is stored as a typed outcome; nothing is lost either way.
"""

from __future__ import annotations

from collections import Counter

import msgspec
from sqlalchemy import select

from deploy.kafka.node import free_port
from interest.llm.scripted import Scripted
from interest.store.tables import interests, partitions
from interest.write.backfill import learn
from interest.write.backlog import Plan
from streams.kafka.messages import InterestUpdate
from streams.store.engine import open_store
from tests.support.chat_server import ChatServer
from tests.support.fault_site import COUNT, Site, log_of, messages_of, read_topic, rows_of, undisturbed, until
from tests.support.llm_world import MODEL, Moods, answer, catalogue

ROWS = 700


def outcomes(site: Site) -> Counter[str]:
    with site.engine.connect() as connection:
        return Counter(connection.execute(select(interests.c.summary_outcome)).scalars())


def missing(site: Site) -> int:
    """Closed partitions without an interest."""
    with site.engine.connect() as connection:
        closed = {tuple(row) for row in connection.execute(select(partitions.c.user_id, partitions.c.index))}
        done = {tuple(row) for row in connection.execute(select(interests.c.user_id, interests.c.index))}
    return len(closed - done)


def test_a_server_that_is_gone_fails_or_hangs_holds_the_work_and_loses_none(site: Site) -> None:
    port = free_port()
    site.extra |= {
        "INTERESTREAM_LLM_URL": f"http://127.0.0.1:{port}/v1",
        "INTERESTREAM_LLM_MODEL": MODEL,
        "INTERESTREAM_LLM_TIMEOUT_S": "2",
    }
    engine = open_store(site.store)
    catalogue(engine)
    engine.dispose()
    log = log_of(ROWS, users=40)
    worker = site.start("ingest,interest")
    site.produce(messages_of(log))
    site.wait_for(ROWS)  # ingest does not wait for the model
    until(lambda: any("llm" in why for why in worker.reasons()), "the worker says that the model is gone")
    assert worker.metric("interestream_lag", stage="interest") > 0
    assert not rows_of(site.engine, "interests")

    moods = Moods()
    with ChatServer(moods, fail_first=10**9, status=500, port=port) as server:
        until(lambda: len(server.bodies) > 3, "the worker asks again")
        until(lambda: any("500" in why for why in worker.reasons()), "the worker says that the model fails")
        moods.mood, server.failures = "hangs", 0
        asked = len(server.bodies)
        until(lambda: len(server.bodies) > asked + 3, "the worker gives up what hangs and asks again")
        assert not worker.ready()
        assert not rows_of(site.engine, "interests")
        moods.mood = "good"
        until(lambda: missing(site) == 0, "every partition has its interest")
        until(worker.ready, "the worker is ready again")
        until(lambda: site.unsent() == 0, "all are announced")
        worker.end()

    with undisturbed(site.folder, log) as whole:
        catalogue(whole)
        learn(whole, Scripted(answer), model=MODEL, plan=Plan(prompt_version="json-1"))
        assert rows_of(site.engine, "interests") == rows_of(whole, "interests")
    assert outcomes(site)["ok"] > 0
    said = [msgspec.json.decode(one.value, type=InterestUpdate) for one in read_topic(site.kafka, site.topics.updates)]
    kept = {(row[0], row[2]) for row in rows_of(site.engine, "interests")}
    assert {(one.user_id, one.index) for one in said} == kept


def test_answers_cut_off_and_nonsense_are_recorded_as_what_they_are(site: Site) -> None:
    moods = Moods()
    engine = open_store(site.store)
    catalogue(engine)
    engine.dispose()
    log = log_of(2 * ROWS, users=40)
    half = messages_of(log[:ROWS]), messages_of(log[ROWS:])
    with ChatServer(moods) as server:
        site.extra |= {"INTERESTREAM_LLM_URL": f"{server.url}/v1", "INTERESTREAM_LLM_MODEL": MODEL}
        worker = site.start("ingest,interest")
        moods.mood = "cuts off"
        site.produce(half[0])
        site.wait_for(ROWS)
        until(lambda: missing(site) == 0, "every partition has an outcome")
        assert outcomes(site)["truncated"] > ROWS / COUNT / 2
        moods.mood = "nonsense"
        site.produce(half[1])
        site.wait_for(2 * ROWS)
        until(lambda: missing(site) == 0, "every partition has an outcome")
        found = outcomes(site)
        assert found["rejected"] > ROWS / COUNT / 2
        assert set(found) <= {"truncated", "rejected", "sparse"}
        until(worker.ready, "the worker is ready: a model that says nonsense is there")
        worker.end()
