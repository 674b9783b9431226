"""The broker or the database dies under a worker: it says so, waits, and goes on."""

from __future__ import annotations

from pathlib import Path

from deploy.kafka.node import Node
from streams.settings.schema import KafkaSettings
from tests.support.fault_site import Site, assert_as_undisturbed, log_of, messages_of, until
from tests.support.own_postgres import Postgres

ROWS = 10_000


def test_a_broker_that_is_killed_and_comes_back(own_node: Node, url: str, tmp_path: Path) -> None:
    site = Site(KafkaSettings(brokers=own_node.bootstrap, partitions=4, session_timeout_s=2.0), url, tmp_path)
    log = log_of(ROWS)
    messages = messages_of(log)
    try:
        site.command("topics", "create")
        worker = site.start()
        until(worker.ready, "the worker is ready")
        site.produce(messages[: ROWS // 2])
        own_node.kill()
        until(lambda: any("kafka" in why for why in worker.reasons()), "the worker says that Kafka is down")
        assert worker.get("/metrics")[0] == 200
        assert worker.get("/live")[0] == 200
        early = site.start(wait=False)
        until(lambda: "waiting to start" in early.said(), "a worker that starts meanwhile waits")
        own_node.start()
        site.produce(messages[ROWS // 2 :])
        site.wait_for(ROWS)
        for one in (worker, early):
            until(one.ready, "both workers are ready")
        assert_as_undisturbed(site, log)
        worker.end()
        early.end()
    finally:
        site.close()


def test_a_database_that_is_killed_and_comes_back(kafka: KafkaSettings, own_postgres: Postgres, tmp_path: Path) -> None:
    site = Site(kafka, own_postgres.url, tmp_path)
    log = log_of(ROWS)
    messages = messages_of(log)
    try:
        site.command("topics", "create")
        worker = site.start()
        site.produce(messages[: ROWS // 4])
        until(lambda: site.consumed() > 0, "the worker works")
        own_postgres.kill()
        site.produce(messages[ROWS // 4 : ROWS // 2])
        until(lambda: any("store" in why for why in worker.reasons()), "the worker says that the store is down")
        until(lambda: worker.metric("interestream_lag", stage="ingest") > 0, "the lag is visible")
        assert worker.get("/live")[0] == 200
        early = site.start(wait=False)
        until(lambda: "waiting to start" in early.said(), "a worker that starts meanwhile waits")
        own_postgres.start()
        site.produce(messages[ROWS // 2 :])
        site.wait_for(ROWS)
        for one in (worker, early):
            until(one.ready, "both workers are ready")
        assert_as_undisturbed(site, log)
        worker.end()
        early.end()
    finally:
        site.close()
