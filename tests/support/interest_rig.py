"""Runs interest stages on a real broker inside a test: a store with closed partitions of ML-100K, their messages, a
language model's server, a running stage, and what is announced then.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import TopicPartition
from sqlalchemy import Engine, select

from interest.llm.protocol import Reply, Request
from interest.llm.scripted import reply
from interest.store.sql import partition_of
from interest.store.tables import interests, partitions
from interest.types import Partition
from interest.write.backfill import learn
from interest.write.backlog import Plan
from streams.files.catalogue import ItemFile, UserFile, load_items, load_users
from streams.files.rows import BehaviorLog
from streams.kafka.clients import group_of, make_consumer, make_producer
from streams.kafka.dead_letter import DeadLetter, read_letter
from streams.kafka.messages import InterestUpdate
from streams.kafka.provision import create_topics
from streams.kafka.topics import Topics, dead_of
from streams.observability.health import Health
from streams.observability.metrics import Metrics
from streams.replay.embedded import replay
from streams.settings.load import load_settings
from streams.settings.schema import AgentSettings, KafkaSettings, LlmSettings, Settings
from streams.stages.consumer.offsets import read_group_offsets
from streams.stages.interest.stage import InterestStage
from streams.stages.stage import Context
from streams.store.engine import open_store
from streams.ubsp.policy import Policy, Scenes

MODEL = "scripted"
ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0  # a slow machine is not a failing test
KAFKA_PARTITIONS = 3


def fill(
    store: Engine, sample: Path, folder: Path, *, users: int = 10, size: int = 20, scenes: Sequence[str] = ()
) -> None:
    """The first users of ML-100K, replayed: about six partitions of twenty ratings each. `scenes`: kept apart, a film
    in one of them.
    """
    head, *lines = (sample / "ml-100k.inter").read_text().splitlines()
    wanted = {str(number) for number in range(1, users + 1)}
    lines = [line for line in lines if line.split("\t")[0] in wanted]
    if scenes:
        head += "\tscene:token"
        lines = [f"{line}\t{scenes[int(line.split(chr(9))[1]) % len(scenes)]}" for line in lines]
    log = folder / f"log-{users}.inter"
    log.write_text("\n".join([head, *lines]) + "\n")
    load_items(store, ItemFile(sample / "ml-100k.item", {}))
    load_users(store, UserFile(sample / "ml-100k.user", {}))
    kept = Scenes.APART if scenes else Scenes.JOINED
    replay(store, BehaviorLog(log, {}), Policy(count=size, scenes=kept))


def closed(store: Engine) -> list[Partition]:
    """The store's partitions in the order in which they were closed."""
    with store.connect() as connection:
        rows = connection.execute(select(partitions)).mappings()
        found = [partition_of(row) for row in rows]
    return sorted(found, key=lambda one: (one.closed_at, one.user_id, one.index))


def place_of(user_id: str) -> int:
    return zlib.crc32(user_id.encode()) % KAFKA_PARTITIONS


def answer(request: Request) -> str:
    """What a fair model says, a function of the request alone: mostly true, sometimes not, sometimes no JSON."""
    asked = request.messages[-1].content
    dice = zlib.crc32(msgspec.json.encode(request)) % 10
    if dice == 0:
        return "no JSON at all"
    if dice == 1:
        return json.dumps({"text": "This user mostly loves Antarctic westerns.", "evidence": [1]})
    shift = "How did this user" in asked
    text = "This user now watches more dramas." if shift else "This user enjoys dramas and comedies."
    return json.dumps({"text": text, "evidence": [int(number) for number in re.findall(r"\[(\d+)\]", asked)[:2]]})


class Model:
    """A `Complete` that can be told how to behave, and remembers what it was asked."""

    def __init__(self, wait_s: float = 0.0) -> None:
        self.seen: list[Request] = []
        self.wait_s = wait_s
        self.gate = asyncio.Event()  # not waited for unless `held`
        self.held = False
        self.says: Callable[[Request], str | Reply] = answer

    async def __call__(self, request: Request) -> Reply:
        self.seen.append(request)
        while self.held:
            await asyncio.sleep(0.01)
        if self.wait_s:
            await asyncio.sleep(self.wait_s)
        said = self.says(request)
        return said if isinstance(said, Reply) else reply(said)


def make_context(engine: Engine, kafka: KafkaSettings, *, drain_s: float = 8.0, **llm: Any) -> Context:
    settings = Settings(kafka=kafka, llm=LlmSettings(**llm), agent=AgentSettings(drain_s=drain_s))
    return Context(settings=settings, engine=engine, metrics=Metrics(), health=Health())


def make_topics(kafka: KafkaSettings) -> KafkaSettings:
    kafka = msgspec.structs.replace(kafka, partitions=KAFKA_PARTITIONS)
    create_topics(kafka)
    return kafka


async def produce(kafka: KafkaSettings, announced: Iterable[Partition]) -> None:
    producer = make_producer(kafka)
    await producer.start()
    topic = Topics(kafka.prefix).partitions
    for one in announced:
        await producer.send(topic, msgspec.json.encode(one), key=one.user_id.encode(), partition=place_of(one.user_id))
    await producer.stop()


@asynccontextmanager
async def running(context: Context) -> AsyncIterator[InterestStage]:
    """A stage at work; stopped in the end as SIGTERM would. What it raised is raised here."""
    stage, stop = InterestStage(context), asyncio.Event()
    task = asyncio.create_task(stage.run(stop))
    try:
        yield stage
    finally:
        stop.set()
        began = time.monotonic()
        await task
        assert time.monotonic() - began < context.settings.agent.drain_s + 1.5


def killed(context: Context, when: Callable[[], bool]) -> None:
    """A stage in a process of its own that ends by SIGKILL."""
    settings, store = context.settings, context.engine.url.render_as_string(hide_password=False)
    told = {
        "INTERESTREAM_STORE": store,
        "INTERESTREAM_KAFKA": settings.kafka.brokers,
        "INTERESTREAM_KAFKA_PREFIX": settings.kafka.prefix,
        "INTERESTREAM_KAFKA_PARTITIONS": str(settings.kafka.partitions),
        "INTERESTREAM_KAFKA_SESSION_TIMEOUT_S": str(settings.kafka.session_timeout_s),
        "INTERESTREAM_LLM_URL": str(settings.llm.url),
        "INTERESTREAM_LLM_MODEL": MODEL,
        "INTERESTREAM_LLM_WINDOW": str(settings.llm.window),
        "INTERESTREAM_LLM_CONCURRENT": str(settings.llm.concurrent),
    }
    program = "import asyncio\nfrom tests.support.interest_rig import worker\nasyncio.run(worker())\n"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=os.environ | told)
    try:
        end = time.monotonic() + PATIENCE_S
        while not when() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        assert process.poll() is None, "the worker ended by itself"
    finally:
        process.kill()
        process.wait()


async def worker() -> None:
    """What the process of `killed` runs."""
    settings = load_settings()
    context = Context(settings=settings, engine=open_store(settings.store), metrics=Metrics(), health=Health())
    await InterestStage(context).run(asyncio.Event())


async def until(true: Callable[[], bool | Awaitable[bool]], what: str = "it") -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        answer = true()
        if answer is True or (answer is not False and await answer):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{what} did not come about")


def rows(store: Engine) -> list[tuple[Any, ...]]:
    with store.connect() as connection:
        query = select(interests).order_by(interests.c.user_id, interests.c.index, interests.c.prompt_version)
        return [tuple(row) for row in connection.execute(query)]


def count(store: Engine) -> int:
    return len(rows(store))


def at_end(context: Context) -> bool:
    """Whether the group has committed everything."""
    kafka = context.settings.kafka
    offsets = read_group_offsets(kafka, group_of(kafka, "interest"), context.topics.partitions)
    return all((one.committed or 0) == one.end for one in offsets.by_partition.values())


async def read_all(kafka: KafkaSettings, topic: str) -> list[Any]:
    """Every message of a topic, by partition in order."""
    consumer = make_consumer(kafka)
    await consumer.start()
    try:
        places = [TopicPartition(topic, number) for number in range(KAFKA_PARTITIONS)]
        consumer.assign(places)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(places)
        found: list[Any] = []
        for place in places:
            while await consumer.position(place) < ends[place]:
                for batch in (await consumer.getmany(place, timeout_ms=500)).values():
                    found += batch
        return sorted(found, key=lambda one: (one.partition, one.offset))
    finally:
        await consumer.stop()


async def updates(context: Context, topic: str | None = None) -> list[InterestUpdate]:
    found = await read_all(context.settings.kafka, topic or context.topics.updates)
    for one in found:
        assert one.partition == place_of(one.key.decode())
    return [msgspec.json.decode(one.value, type=InterestUpdate) for one in found]


async def letters(context: Context) -> list[DeadLetter]:
    found = await read_all(context.settings.kafka, dead_of(context.topics.partitions))
    return [read_letter(one.value, one.headers) for one in found]


def learnt(sample: Path, folder: Path, users: int, **plan: Any) -> list[tuple[Any, ...]]:
    """The rows that `learn` writes over the same store with the same model."""
    engine = open_store(f"sqlite:///{folder / 'learnt.db'}")
    fill(engine, sample, folder, users=users)
    learn(engine, Model(), model=MODEL, plan=Plan(prompt_version="json-1", **plan))
    found = rows(engine)
    engine.dispose()
    return found
