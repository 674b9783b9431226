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
from sqlalchemy import Engine, and_, select

from fusion.encoders.item_text import ITEM_TEMPLATE
from fusion.features.counts import ItemStatistics
from fusion.features.match.features import MatchSpec
from fusion.features.samples import fit_samples
from fusion.interests.backfill import fuse
from fusion.interests.item_vectors import encode_items, texts_without_vectors
from fusion.interests.pooled_rows import VectorSource
from fusion.interests.text_vectors import Encoder
from fusion.models.din import Din, DinConfig
from fusion.tables import centroids, representations, vectors
from fusion.training.artifact import ArtifactConfig, save_artifact, versions
from fusion.training.train import TrainConfig
from interest.store.sql import insert_new, item_row, upsert, writing
from interest.store.tables import behaviors, interests, items, partitions
from interest.types import Outcome, Reason, Source
from streams.kafka.clients import make_consumer, make_producer
from streams.kafka.messages import InterestUpdate, RepresentationUpdate
from streams.kafka.partitioner import Partitioner
from streams.kafka.provision import create_topics
from streams.observability.health import Health
from streams.observability.metrics import Metrics
from streams.resolve.centroids import CentroidPass
from streams.settings.schema import FusionSettings, KafkaSettings, Settings
from streams.stages.fusion.item_texts import count_items
from streams.stages.fusion.stage import FusionStage
from streams.stages.stage import Context
from streams.store.tables import outbox
from tests.support.ctr_world import TASKS, catalogue, random_rows
from tests.support.ctr_world import log_of as ctr_log

PATIENCE_S = 180.0
PARTITIONS = 2
ITEMS = 8
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
    """The interests' rows, and their users' partitions until then, three behaviours each."""
    rows, newest = [], dict[str, int]()
    for one in updates:
        row = {name: value for name, value in msgspec.to_builtins(one).items() if name in interests.c}
        rows.append(row | {"evidence": "[1, 2]", "at": one.closed_at})
        newest[one.user_id] = max(newest.get(one.user_id, 0), one.index)
    with writing(engine) as connection:
        insert_new(connection, items, [item_row(item) for item in catalogue(ITEMS).values()])
        for user, last in newest.items():
            closed, acted = zip(*(partition_rows(user, index) for index in range(last + 1)), strict=True)
            insert_new(connection, partitions, list(closed))
            insert_new(connection, behaviors, [row for own in acted for row in own])
        upsert(connection, interests, rows)


def partition_rows(user_id: str, index: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A closed partition and its behaviours."""
    chosen, first = random.Random(f"{user_id} {index}"), 3 * index
    header = {"user_id": user_id, "generation": 0, "index": index, "first_seq": first, "last_seq": first + 2}
    acted = [
        {
            "user_id": user_id, "seq": seq, "item_id": f"i{chosen.randrange(ITEMS)}", "action": "rate",
            "at": float(index), "value": float(chosen.randrange(1, 6)),
        }
        for seq in range(first, first + 3)
    ]  # fmt: skip
    return header | {"opened_at": float(index), "closed_at": float(index), "reason": "count"}, acted


def fuse_all(engine: Engine, encoder: Encoder) -> None:
    """What `interestream fuse` does."""
    with engine.connect() as connection:
        texts = texts_without_vectors(connection, encoder.id, ITEM_TEMPLATE)
    encode_items(engine, encoder, texts, written=count_items)
    work = CentroidPass(engine, encoder.id, ITEM_TEMPLATE)
    while work.step():
        pass
    fuse(engine, encoder)


def content(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Vectors, centroids and representations, whole."""
    with engine.connect() as connection:
        return {
            table.name: sorted(tuple(row) for row in connection.execute(select(table)))
            for table in (vectors, centroids, representations)
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
    """What ought to be left: every user's newest row of the artifact, and its partition's centroids."""
    same = [representations.c[name] == centroids.c[name] for name in ("user_id", "generation", "index")]
    query = (
        select(representations, centroids.c.encoder, centroids.c.liked, centroids.c.disliked)
        .outerjoin(centroids, and_(*same))
        .where(representations.c.artifact == artifact)
        .order_by(representations.c.index)
    )
    with engine.connect() as connection:
        rows = connection.execute(query).mappings().all()
    kept = [{name: row[name] for name in RepresentationUpdate.__struct_fields__} for row in rows]
    return {row["user_id"]: RepresentationUpdate(**row) for row in kept}


def told(updates: dict[str, RepresentationUpdate]) -> dict[str, RepresentationUpdate]:
    """Whole, once it is known that they tell something of everything."""
    assert all(one.vector and (one.liked or one.disliked) for one in updates.values())
    return updates


def make_artifact(folder: Path, view: VectorSource, *, seed: int = 0, interest: bool = True, width: int = 384) -> str:
    """An artifact with random weights, saved as a trained one; returns its id. What counts is that it is its own."""
    log = ctr_log(random_rows(seed, 5, ITEMS, 10), 5, ITEMS)
    read = {"partitions": 4, "text_width": 2 * width, "prompt_version": view.prompt_version, "encoder": view.encoder}
    samples = fit_samples(
        log, np.arange(log.size), np.ones(log.size, bool), catalogue(ITEMS), {}, tasks=TASKS, history=10, min_history=2,
        match=MatchSpec(parts=("text", "places"), encoder=view.encoder, template=ITEM_TEMPLATE),
        item_text=np.random.default_rng(seed).normal(size=(ITEMS, width)).astype(np.float32),
    )  # fmt: skip
    assert samples.match is not None
    spec = msgspec.structs.replace(samples.spec, **(read if interest else {}))
    torch.manual_seed(seed)
    config = DinConfig(interest=interest)
    model = Din(spec, config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    sums = np.zeros((len(spec.items), 4))
    statistics = ItemStatistics(sums, sums.copy(), np.full(len(spec.items), np.inf))
    record = ArtifactConfig(kind="din", model=config, training=TrainConfig(), split="global", versions=versions())
    return save_artifact(folder, model, spec, statistics, record, {}, space=samples.match.space)


def outbox_rows(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(select(outbox)))
