"""What a worker must not paper over: messages that are gone, another topic under the same name, another number of
partitions. It ends with exit code 2 and a sentence; the store stays; `interestream topics accept` lets it go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streams.kafka.clients import admin
from tests.support.fault_site import Site, Worker, log_of, messages_of, rows_of, until

TABLES = ("behaviors", "partitions", "offsets", "outbox")


def _retention_passes_it(client: Any, site: Site) -> None:
    """The oldest messages are deleted, some of which the store has not seen."""
    from kafka import TopicPartition

    topic = site.topics.behaviors
    ends = client.list_partition_offsets(
        {TopicPartition(topic, number): _latest() for number in range(site.kafka.partitions)}
    )
    client.delete_records({place: end.offset for place, end in ends.items()})


def _made_again(client: Any, site: Site) -> None:
    """The topic is deleted and made again under its name, and filled to beyond where the store stood."""
    topic = site.topics.behaviors
    client.delete_topics([topic])
    until(lambda: topic not in client.list_topics(), "the topic is deleted")
    until(lambda: "created" in _create(site), "the topic is made again")
    site.produce(messages_of(log_of(4_000, seed=3)))


def _create(site: Site) -> str:
    try:
        return site.command("topics", "create")
    except AssertionError:  # Kafka is still deleting it
        return ""


def _latest() -> Any:
    from kafka.admin import OffsetSpec

    return OffsetSpec.LATEST


@pytest.mark.parametrize(
    ("happens", "says"),
    [(_retention_passes_it, "retention has taken"), (_made_again, "deleted and created again")],
    ids=["older than retention", "topic made again"],
)
def test_a_worker_refuses_until_it_is_accepted(site: Site, happens: Callable[[Any, Site], None], says: str) -> None:
    log = log_of(2_000)
    worker = site.start()
    site.produce(messages_of(log))
    site.wait_for(2_000)
    worker.end()
    before = {name: rows_of(site.engine, name) for name in TABLES}
    site.produce(messages_of(log_of(2_000, seed=2)))
    with admin(site.kafka) as client:
        happens(client, site)

    refused = site.start(wait=False)
    assert refused.ended_with() == 2
    assert says in refused.said()
    assert "interestream topics accept" in refused.said()
    assert "Traceback" not in refused.said()
    assert {name: rows_of(site.engine, name) for name in TABLES} == before

    site.workers.remove(refused)
    site.command("topics", "accept", "--yes")
    kept = site.counted("accepted")
    goes_on = site.start()
    site.produce(messages_of(log_of(1_000, seed=4)))
    until(lambda: site.counted("accepted") >= kept + 900, "the worker goes on")  # one in twenty is sent twice
    assert set(before["behaviors"]) <= set(rows_of(site.engine, "behaviors"))
    goes_on.end()


def test_another_number_of_partitions_is_refused(site: Site) -> None:
    worker = site.start()
    site.produce(messages_of(log_of(1_000)))
    site.wait_for(1_000)
    worker.end()
    before = {name: rows_of(site.engine, name) for name in TABLES}
    with admin(site.kafka) as client:
        client.create_partitions({site.topics.behaviors: 8})
    refused = site.start(wait=False)
    assert refused.ended_with() == 2
    assert "8 partitions" in refused.said()
    assert "Traceback" not in refused.said()
    assert {name: rows_of(site.engine, name) for name in TABLES} == before


def test_a_store_of_another_policy_is_refused(site: Site) -> None:
    worker = site.start()
    site.produce(messages_of(log_of(1_000)))
    site.wait_for(1_000)
    worker.end()
    site.extra["INTERESTREAM_INGEST_COUNT"] = "7"
    refused: Worker = site.start(wait=False)
    assert refused.ended_with() == 2
    assert "partitioned by" in refused.said()
