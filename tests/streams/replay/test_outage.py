"""A producer gives up on a Kafka that stays away, naming it; and counts anew whenever it answers."""

from __future__ import annotations

import asyncio

import pytest

from streams.files.rows import BehaviorLog
from streams.kafka.clients import KafkaError
from streams.replay.outage import Outage
from streams.replay.producer import LogProducer
from streams.settings.schema import KafkaSettings


def test_it_lasts_from_the_first_failure_to_the_next_answer() -> None:
    now = [0.0]
    outage = Outage(brokers="kafka:9092", timeout_s=60, clock=lambda: now[0])
    outage.failed()
    now[0] = 59
    outage.failed()
    outage.over()
    now[0] = 118
    outage.failed()  # another one begins
    now[0] = 178
    with pytest.raises(KafkaError, match=r"kafka:9092 has not answered for 60 s.*the same command goes on.*--timeout"):
        outage.failed()


def test_a_log_is_not_waited_with_for_ever(tmp_path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\nann,1,1700000000\n")
    said: list[str] = []
    producer = LogProducer(
        settings=KafkaSettings(brokers="127.0.0.1:1"), log=BehaviorLog(log, {}), warn=said.append, timeout_s=1
    )
    with pytest.raises(KafkaError, match=r"127\.0\.0\.1:1 has not answered for \d+ s"):
        asyncio.run(producer.run())
    assert said  # it said that it waits before it gave up
