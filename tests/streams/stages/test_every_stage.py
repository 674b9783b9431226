"""What all three stages do alike, for their consumer is one: dead letters that are too large, floods of them, missing
topics.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from kafka.admin import ConfigResource, ConfigResourceType
from sqlalchemy import Engine
from structlog.testing import capture_logs

from streams.kafka.clients import KafkaError, admin
from streams.kafka.provision import create_topics
from streams.kafka.topics import Topics, dead_of
from streams.observability.health import Health
from streams.observability.metrics import Metrics
from streams.settings.schema import FusionSettings, KafkaSettings, Settings
from streams.stages.consumer.dead_letters import LOGGED
from streams.stages.stage import Context
from streams.worker.app import make_stage
from tests.support.stage_rig import in_loop, letters, produce, until

FLOOD = 60
NARROW = 20_000  # bytes that the topic of dead letters takes

stages = pytest.mark.parametrize(
    "stage", ["ingest", "interest", pytest.param("fusion", marks=pytest.mark.model)], ids=str
)


@pytest.fixture
def context(kafka: KafkaSettings, store: Engine, encoder_folder: Path) -> Context:
    settings = Settings(kafka=kafka, fusion=FusionSettings(encoder=str(encoder_folder)))
    return Context(settings=settings, engine=store, metrics=Metrics(), health=Health())


def read_by(stage: str, topics: Topics) -> str:
    return {"ingest": topics.behaviors, "interest": topics.partitions, "fusion": topics.updates}[stage]


def narrow(kafka: KafkaSettings, topic: str) -> None:
    """Let the topic take less than a letter may have, and wait until the broker keeps to it."""
    limit = {"max.message.bytes": str(NARROW)}
    with admin(kafka) as client:
        client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=limit)])
    time.sleep(1.0)


async def running(context: Context, stage: str, stop: asyncio.Event) -> None:
    await make_stage(stage, context).run(stop)


@stages
@in_loop
async def test_a_flood_of_rubbish_is_all_kept_and_a_few_lines_of_the_log(
    context: Context, kafka: KafkaSettings, stage: str
) -> None:
    create_topics(kafka)
    topic = read_by(stage, context.topics)
    await asyncio.to_thread(narrow, kafka, dead_of(topic))
    large = b"{" + b" " * (NARROW * 3)
    rubbish: list[tuple[bytes | None, bytes | None]] = [(b"u", b"rubbish %d" % n) for n in range(FLOOD)]
    await produce(kafka, topic, [*rubbish, (b"u", large)])
    stop = asyncio.Event()

    def dead() -> float:
        return context.metrics.registry.get_sample_value("interestream_dead_letters_total", {"topic": topic}) or 0.0

    with capture_logs() as logged:
        task = asyncio.create_task(running(context, stage, stop))
        try:
            await until(lambda: dead() == FLOOD + 1, "every letter")
        finally:
            stop.set()
            await task
            print(dead(), [one for one in logged if one["event"] != "dead letter"][:12])
    found = await letters(kafka, topic)
    assert {one.value for one in found if not one.truncated} == {value for _, value in rubbish}
    assert [(one.truncated, one.key) for one in found if one.truncated] == [(len(large), b"u")]
    events = [one["event"] for one in logged if one.get("stage") == stage and "dead letter" in one["event"]]
    assert events.count("dead letter") == LOGGED
    assert 1 <= events.count("more dead letters") <= 2
    told = [one["count"] for one in logged if one["event"] == "more dead letters"]
    assert LOGGED + sum(told) == FLOOD + 1


@stages
@in_loop
async def test_a_missing_topic_ends_the_stage_with_the_remedy(context: Context, stage: str) -> None:
    with pytest.raises(KafkaError, match=f"there is no topic .*{read_by(stage, Topics())}.*: run `interestream topics"):
        await asyncio.wait_for(running(context, stage, asyncio.Event()), 60)
