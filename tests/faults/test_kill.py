"""Workers killed at random moments: the store and the announcements end as if nothing had happened."""

from __future__ import annotations

import time

import msgspec
import pytest

from interest.llm.scripted import Scripted
from interest.write.backfill import learn
from interest.write.backlog import Plan
from streams.kafka.messages import InterestUpdate
from streams.store.engine import open_store
from tests.support.chat_server import ChatServer
from tests.support.fault_site import (
    Site,
    assert_as_undisturbed,
    log_of,
    messages_of,
    read_topic,
    rows_of,
    undisturbed,
    until,
)
from tests.support.llm_world import MODEL, Moods, answer, catalogue
from tests.support.moments import SOAK, moments

KILLS, ROWS = (30, 200_000) if SOAK else (4, 10_000)


@pytest.mark.timeout(3600 if SOAK else 600)
def test_the_store_is_that_of_an_undisturbed_run_whenever_a_worker_was_killed(site: Site) -> None:
    """Every other kill falls into the work, whatever the machine's speed: it waits for a number of behaviours that is
    well below what there is to do. The rest fall at any time, maybe while the worker starts or joins its group.
    """
    site.extra["INTERESTREAM_INGEST_BATCH"] = "100"  # transactions that are short beside the time between two looks
    log = log_of(ROWS)
    messages = messages_of(log)
    chosen = moments()
    share = ROWS // (KILLS + 1)
    in_hand = 0
    worker = site.start()
    for kill in range(KILLS):
        before = site.consumed() if kill else 0
        site.produce(messages[kill * share : (kill + 1) * share])
        if kill % 2 == 0:
            wanted = before + chosen.uniform(0, 0.5) * ((kill + 1) * share - before)
            until(lambda wanted=wanted: site.consumed() > wanted, "the worker goes on", every_s=0.005)
        else:
            time.sleep(chosen.uniform(0, 3))
        worker.kill()
        in_hand += before < site.consumed() < (kill + 1) * share
        worker = site.start(wait=chosen.random() < 0.5)
    site.produce(messages[KILLS * share :])
    site.wait_for(ROWS)
    assert_as_undisturbed(site, log)
    assert in_hand  # else no kill has fallen between two transactions, and this has tested little
    worker.end()


def test_every_interest_is_there_once_whenever_a_worker_was_killed(site: Site) -> None:
    """The language model takes its time, so that a kill finds calls in flight."""
    engine = open_store(site.store)
    catalogue(engine)
    engine.dispose()
    kills, rows = (12, 4_000) if SOAK else (2, 700)
    log = log_of(rows, users=40)
    messages = messages_of(log)
    share = len(log) // (kills + 1)
    chosen = moments()
    with ChatServer(Moods(wait_s=0.05)) as server:
        site.extra |= {"INTERESTREAM_LLM_URL": f"{server.url}/v1", "INTERESTREAM_LLM_MODEL": MODEL}
        site.extra |= {"INTERESTREAM_LLM_CONCURRENT": "8"}
        worker = site.start("ingest,interest")
        for kill in range(kills):
            asked = len(server.bodies)
            site.produce(messages[kill * share : (kill + 1) * share])
            until(lambda asked=asked: len(server.bodies) > asked + 5, "the model is asked")
            time.sleep(chosen.uniform(0, 1))
            worker.kill()
            worker = site.start("ingest,interest")
        site.produce(messages[kills * share :])
        site.wait_for(len(log))
        with undisturbed(site.folder, log) as whole:
            catalogue(whole)
            learn(whole, Scripted(answer), model=MODEL, plan=Plan(prompt_version="json-1"))
            expected = rows_of(whole, "interests")
        until(lambda: len(rows_of(site.engine, "interests")) >= len(expected), "every partition has its interest")
        until(lambda: site.unsent() == 0, "all are announced")
        worker.end()
    assert rows_of(site.engine, "interests") == expected
    said = [msgspec.json.decode(one.value, type=InterestUpdate) for one in read_topic(site.kafka, site.topics.updates)]
    assert {(one.user_id, one.generation, one.index, one.prompt_version) for one in said} == {
        row[:4] for row in expected
    }


def test_a_restart_on_the_same_machine_does_not_wait_for_the_dead_workers_session(site: Site) -> None:
    """The session outlasts the test's patience: without static membership nothing would be read in time."""
    site.extra["INTERESTREAM_KAFKA_SESSION_TIMEOUT_S"] = "600"
    log = log_of(2_000)
    messages = messages_of(log)
    worker = site.start()
    site.produce(messages[:1_000])
    site.wait_for(1_000)
    worker.kill()
    site.produce(messages[1_000:])
    successor = site.start()
    site.wait_for(2_000)
    assert_as_undisturbed(site, log)
    successor.end()


def test_a_worker_that_ends_in_good_order_leaves_its_partitions_to_another_at_once(site: Site) -> None:
    site.extra["INTERESTREAM_KAFKA_SESSION_TIMEOUT_S"] = "600"
    log = log_of(2_000)
    messages = messages_of(log)
    first, second = site.start(), site.start()
    site.produce(messages[:1_000])
    site.wait_for(1_000)
    first.end()
    site.produce(messages[1_000:])
    site.wait_for(2_000)
    assert_as_undisturbed(site, log)
    second.end()
