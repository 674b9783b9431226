"""Runs ingest stages on a real broker inside a test: topics, messages, a running stage, and what the store has then."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import TopicPartition
from sqlalchemy import Engine, Table, func, select

from interest.store.tables import behaviors, items, partitions, users
from interest.types import Behavior, Partition
from streams.files.rows import BehaviorLog
from streams.files.sort import in_time_order
from streams.kafka.clients import admin, make_consumer, make_producer
from streams.kafka.dead_letter import DeadLetter, read_letter
from streams.kafka.provision import create_topics
from streams.kafka.topics import Topics, dead_of
from streams.observability.health import Health
from streams.observability.metrics import Metrics
from streams.settings.schema import IngestSettings, KafkaSettings, Settings
from streams.stages.ingest.offsets import positions_of
from streams.stages.ingest.stage import IngestStage
from streams.stages.stage import Context
from streams.store.tables import source_of


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An asynchronous test, run by itself."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


PATIENCE_S = 180.0  # a slow machine is not a failing test

GOOD = Behavior(user_id="ann", item_id="film", action="rate", at=1_700_000_000.0)


def behaviors_of(path: Path) -> list[Behavior]:
    """A log's behaviours in the order in which the embedded replay reads them."""
    _, rows = in_time_order(BehaviorLog(path, {}))
    return [behavior for chunk in rows for behavior in chunk.behaviors()]


def make_context(engine: Engine, kafka: KafkaSettings, **ingest: Any) -> Context:
    settings = Settings(kafka=kafka, ingest=IngestSettings(**ingest))
    return Context(settings=settings, engine=engine, metrics=Metrics(), health=Health())


def make_topics(kafka: KafkaSettings) -> Topics:
    create_topics(kafka)
    return Topics(kafka.prefix)


def message(behavior: Behavior) -> tuple[bytes, bytes]:
    return behavior.user_id.encode(), msgspec.json.encode(behavior)


async def produce(
    kafka: KafkaSettings, topic: str, messages: Iterable[tuple[bytes | None, bytes | None]], **options: Any
) -> None:
    """Send messages in order, each to the partition of Kafka's own partitioner."""
    producer = make_producer(kafka, **options)
    await producer.start()
    try:
        sent = [await producer.send(topic, value, key=key) for key, value in messages]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


@asynccontextmanager
async def running(context: Context) -> AsyncIterator[IngestStage]:
    """A stage at work; stopped in the end as SIGTERM would. What it raised is raised here."""
    stage, stop = IngestStage(context), asyncio.Event()
    task = asyncio.create_task(stage.run(stop))
    try:
        yield stage
        assert not task.done(), task
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


async def until(true: Callable[[], bool], what: str = "") -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not await asyncio.to_thread(true):
        assert asyncio.get_running_loop().time() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.05)


def ends(kafka: KafkaSettings, topic: str) -> dict[int, int]:
    from kafka.admin import OffsetSpec

    with admin(kafka) as client:
        (found,) = client.describe_topics([topic])
        places = [TopicPartition(topic, one["partition_index"]) for one in found["partitions"]]
        answer = client.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
    return {place.partition: at.offset for place, at in answer.items()}


async def drained(engine: Engine, kafka: KafkaSettings, *topics: str) -> None:
    """Return once the store stands at the topics' present ends."""
    for topic in topics or (Topics(kafka.prefix).behaviors,):
        wanted = await asyncio.to_thread(ends, kafka, topic)

        def there(topic: str = topic, wanted: dict[int, int] = wanted) -> bool:
            at = {one: position.offset for one, position in positions_of(engine, source_of(topic)).items()}
            # a transaction's marker may come after its messages, and after the question for the ends
            return at.keys() == wanted.keys() and all(at[one] >= end for one, end in wanted.items())

        await until(there, f"{topic} read to {wanted}")


def content(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """The rows that must be the same whatever brought the behaviours."""
    with engine.connect() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for table in (behaviors, partitions, items, users)
        }


async def read_all(kafka: KafkaSettings, topic: str) -> list[Any]:
    """Every message of a topic, partition by partition in order."""
    consumer = make_consumer(kafka)
    await consumer.start()
    try:
        out = []
        for partition, end in sorted((await asyncio.to_thread(ends, kafka, topic)).items()):
            place = TopicPartition(topic, partition)
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            while await consumer.position(place) < end:
                out += (await consumer.getmany(timeout_ms=500)).get(place, [])
        return out
    finally:
        await consumer.stop()


async def announced(kafka: KafkaSettings) -> dict[tuple[str, int], Partition]:
    """Announced partitions by user and index; each comes in its user's order, and always the same."""
    found: dict[tuple[str, int], Partition] = {}
    newest: dict[str, int] = {}
    for one in await read_all(kafka, Topics(kafka.prefix).partitions):
        partition = msgspec.json.decode(one.value, type=Partition)
        assert one.key == partition.user_id.encode()
        key = (partition.user_id, partition.index)
        assert found.setdefault(key, partition) == partition
        assert partition.index <= newest.get(partition.user_id, -1) + 1
        newest[partition.user_id] = max(partition.index, newest.get(partition.user_id, -1))
    return found


async def letters(kafka: KafkaSettings, topic: str) -> Sequence[DeadLetter]:
    return [read_letter(one.value, one.headers) for one in await read_all(kafka, dead_of(topic))]


def count(engine: Engine, table: Table) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())
