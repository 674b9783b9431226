"""Interests of a few users as the interest stage leaves them, in the store and as messages, and artifacts over them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from sqlalchemy import Engine, select

from fusion.features.counts import ItemStatistics
from fusion.interests.pooled_rows import VectorSource
from fusion.models.din import Din, DinConfig
from fusion.tables import representations, vectors
from fusion.training.artifact import ArtifactConfig, save_artifact, versions
from fusion.training.train import TrainConfig
from interest.store.sql import upsert, writing
from interest.store.tables import interests
from interest.types import Outcome, Reason, Source
from streams.kafka.clients import make_consumer, make_producer
from streams.kafka.messages import InterestUpdate, RepresentationUpdate
from streams.kafka.partitioner import Partitioner
from streams.kafka.provision import create_topics
from streams.observability.health import Health
from streams.observability.metrics import Metrics
from streams.settings.schema import FusionSettings, KafkaSettings, Settings
from streams.stages.fusion.stage import FusionStage
from streams.stages.stage import Context
from streams.store.tables import outbox
from tests.support.ctr_world import log_of as ctr_log
from tests.support.ctr_world import random_rows, spec_of

PATIENCE_S = 180.0
PARTITIONS = 2
KINDS = ("war", "comedy", "film noir", "musical", "western", "science fiction", "romance")


class CrashError(Exception):
    """Stands for the process ending."""


def update(user_id: str, index: int, version: str = "json-1", **changes: Any) -> InterestUpdate:
    """What was learnt of one partition; texts of every length."""
    chosen = random.Random(f"{user_id} {index} {version}")
    told = {
        "user_id": user_id,
        "index": index,
        "prompt_version": version,
        "summary": " ".join(f"Likes {chosen.choice(KINDS)} films." for _ in range(chosen.randrange(1, 12))),
        "shift": f"Moved to {chosen.choice(KINDS)} in part {index}." if index else "",
        "summary_source": Source.LLM,
        "summary_outcome": Outcome.OK,
        "shift_source": Source.LLM,
        "shift_outcome": Outcome.OK,
        "evidence": (1, 2),
        "claims": 2,
        "supported": 2,
        "model": "m",
        "opened_at": float(index),
        "closed_at": float(index) + 0.5,
        "behaviors": 50,
        "reason": Reason.COUNT,
    }
    return InterestUpdate(**told | changes)


def of_users(users: int, each: int) -> list[InterestUpdate]:
    """Every user's partitions, users interleaved."""
    return [update(f"u{user}", index) for index in range(each) for user in range(users)]


EVERY = of_users(9, 4)


def learn(engine: Engine, updates: Iterable[InterestUpdate]) -> None:
    """The interests' rows."""
    rows = []
    for one in updates:
        row = {name: value for name, value in msgspec.to_builtins(one).items() if name in interests.c}
        rows.append(row | {"evidence": "[1, 2]", "at": one.closed_at})
    with writing(engine) as connection:
        upsert(connection, interests, rows)


def content(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Vectors and representations, whole."""
    with engine.connect() as connection:
        return {
            table.name: sorted(tuple(row) for row in connection.execute(select(table)))
            for table in (vectors, representations)
        }


def context_of(kafka: KafkaSettings, engine: Engine, **fusion: Any) -> Context:
    """Topics on the broker, and what a stage is made with."""
    kafka = msgspec.structs.replace(kafka, partitions=PARTITIONS)
    create_topics(kafka)
    settings = Settings(kafka=kafka, fusion=FusionSettings(**{"poll_s": 0.2} | fusion))
    return Context(settings=settings, engine=engine, metrics=Metrics(), health=Health())


def partition_of(user_id: str) -> int:
    return Partitioner(PARTITIONS)[user_id]


async def publish(context: Context, updates: Iterable[InterestUpdate | bytes]) -> None:
    """Onto interest-updates, each user in the user's own Kafka partition."""
    producer = make_producer(context.settings.kafka)
    await producer.start()
    for one in updates:
        if isinstance(one, bytes):
            await producer.send(context.topics.updates, one, key=b"odd", partition=0)
        else:
            partition = partition_of(one.user_id)
            await producer.send(
                context.topics.updates, msgspec.json.encode(one), key=one.user_id.encode(), partition=partition
            )
    await producer.stop()


@asynccontextmanager
async def working(context: Context) -> AsyncIterator[FusionStage]:
    """A stage at work, which is told to stop at the end and must end cleanly."""
    stage, stop = FusionStage(context), asyncio.Event()
    run = asyncio.create_task(stage.run(stop))
    try:
        yield stage
    finally:
        stop.set()
        await asyncio.wait({run}, timeout=PATIENCE_S)
        assert run.done()
    run.result()


async def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if await asyncio.to_thread(true):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come about")


def done(context: Context) -> int:
    """Messages acknowledged so far."""
    topic = context.topics.updates
    return int(context.metrics.messages.labels("fusion", topic)._value.get())


async def announced(context: Context, topic: str | None = None) -> list[tuple[int, bytes, bytes | None]]:
    """Everything on a topic, by default representations: Kafka partition, key, value, in each partition's order."""
    consumer = make_consumer(context.settings.kafka, topic or context.topics.representations)
    await consumer.start()
    while not consumer.assignment():  # the broker has not told the topic yet
        await asyncio.sleep(0.1)
    places = sorted(consumer.assignment())
    ends = await consumer.end_offsets(places)
    await consumer.seek_to_beginning(*places)
    found: list[tuple[int, bytes, bytes | None]] = []
    while any([await consumer.position(place) < ends[place] for place in places]):
        for place, records in (await consumer.getmany(timeout_ms=200)).items():
            found += [(place.partition, record.key, record.value) for record in records]
    await consumer.stop()
    return found


async def latest(context: Context) -> dict[str, RepresentationUpdate]:
    """What is left of the topic once it is compacted."""
    found = {}
    for partition, key, value in await announced(context):
        assert partition == partition_of(key.decode())
        update = msgspec.json.decode(value or b"", type=RepresentationUpdate)
        assert update.user_id == key.decode()
        found[update.user_id] = update
    return found


def newest_rows(engine: Engine, artifact: str) -> dict[str, RepresentationUpdate]:
    """What ought to be left: every user's newest row of the artifact."""
    query = select(representations).where(representations.c.artifact == artifact).order_by(representations.c.index)
    with engine.connect() as connection:
        rows = connection.execute(query).mappings().all()
    return {row["user_id"]: RepresentationUpdate(**row) for row in rows}


def floats(updates: dict[str, RepresentationUpdate]) -> dict[str, tuple[int, str, tuple[float, ...]]]:
    return {user: (one.index, one.artifact, one.floats()) for user, one in updates.items()}


def make_artifact(folder: Path, view: VectorSource, *, seed: int = 0, interest: bool = True, width: int = 384) -> str:
    """An artifact with random weights, saved as a trained one; returns its id. What counts is that it is its own."""
    log = ctr_log(random_rows(seed, 5, 8, 10), 5, 8)
    read = {"partitions": 4, "text_width": 2 * width, "prompt_version": view.prompt_version, "encoder": view.encoder}
    spec = spec_of(log, **(read if interest else {}))
    torch.manual_seed(seed)
    config = DinConfig(interest=interest)
    model = Din(spec, config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    sums = np.zeros((len(spec.items), 4))
    statistics = ItemStatistics(sums, sums.copy(), np.full(len(spec.items), np.inf))
    record = ArtifactConfig(kind="din", model=config, training=TrainConfig(), split="global", versions=versions())
    return save_artifact(folder, model, spec, statistics, record, {})


def outbox_rows(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(select(outbox)))
