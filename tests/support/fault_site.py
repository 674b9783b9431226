"""What the tests of faults stand on: one installation (topics, a store, workers as processes), a log of behaviours, and
what the store holds beside what an undisturbed run of the same log leaves.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.partitioner import DefaultPartitioner
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, create_engine, func, select
from sqlalchemy.exc import DBAPIError

from deploy.kafka.node import free_port
from interest.store.tables import behaviors, metadata, partitions
from interest.types import Behavior
from streams.files.rows import BehaviorLog
from streams.kafka.topics import Topics
from streams.replay.embedded import replay
from streams.settings.schema import KafkaSettings
from streams.store.engine import open_store
from streams.store.tables import offsets, outbox, source_of
from streams.ubsp.policy import Policy

COUNT = 10  # behaviours that fill a partition: many partitions from few behaviours
START_S = 120.0  # of one worker, on a machine that is busy
LONG_S = 120.0  # what no wait may take; an assertion of behaviour, not of speed
Message = tuple[bytes | None, bytes | None]


def log_of(rows: int, users: int = 400, seed: int = 1) -> list[Behavior]:
    """Behaviours in event-time order: a few busy users and many quiet ones, and one in twenty sent twice."""
    chosen = random.Random(seed)
    found: list[Behavior] = []
    while len(found) < rows:
        number = len(found)
        one = Behavior(
            user_id=f"user-{min(int(chosen.paretovariate(0.6)), users)}",
            item_id=f"item-{chosen.randrange(500)}",
            action=chosen.choice(("play", "rate")),
            at=1_700_000_000.0 + number * 0.25,
            value=float(chosen.randrange(1, 6)),
            scene="home" if number % 3 else None,
            event_id=f"{seed}-{number}",
        )
        found += [one] * (2 if chosen.random() < 0.05 else 1)
    return found[:rows]


def messages_of(log: Iterable[Behavior]) -> list[Message]:
    return [(one.user_id.encode(), msgspec.json.encode(one)) for one in log]


def produce(kafka: KafkaSettings, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
    """Send in order, each to the partition that Kafka's own partitioner gives its key; return each one's partition and
    offset once all are there.
    """

    async def run() -> list[tuple[int, int]]:
        producer = AIOKafkaProducer(
            bootstrap_servers=kafka.brokers, enable_idempotence=True, linger_ms=5, max_request_size=32 << 20
        )
        await producer.start()
        try:
            places = sorted(await producer.partitions_for(topic))
            known: dict[bytes | None, int] = {}
            sent = []
            for number, (key, value) in enumerate(messages):
                if key not in known:
                    known[key] = DefaultPartitioner()(key, places, places)
                place = known[key] if key is not None else places[number % len(places)]
                sent.append(await producer.send(topic, value, key=key, partition=place))
            return [(one.partition, one.offset) for one in await asyncio.gather(*sent)]
        finally:
            await producer.stop()

    return asyncio.run(run())


def read_topic(kafka: KafkaSettings, topic: str) -> list[ConsumerRecord]:
    """All that a topic holds now, each Kafka partition in order."""

    async def run() -> list[ConsumerRecord]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=kafka.brokers,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # by default aiokafka asks for the end, whose answer may come after the seek
            max_partition_fetch_bytes=32 << 20,
        )
        await consumer.start()
        try:
            while not (numbers := consumer.partitions_for_topic(topic)):  # a broker under load may leave a topic out
                await consumer._client.force_metadata_update()
                await asyncio.sleep(0.1)
            places = [TopicPartition(topic, number) for number in sorted(numbers)]
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            await consumer.seek_to_beginning(*places)
            found: list[ConsumerRecord] = []
            while any([await consumer.position(place) < ends[place] for place in places]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += records
            return found
        finally:
            await consumer.stop()

    return asyncio.run(run())


def until(true: Callable[[], Any], what: str, patience_s: float = LONG_S, every_s: float = 0.1) -> Any:
    """Wait until `true()` is; return what it returned. Its errors of a store that is down are not the test's."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            found = true()
        except DBAPIError:
            found = None
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"in {patience_s:.0f} s it never came to be that {what}")
        time.sleep(every_s)


class Worker:
    """One `interestream agent` as a process."""

    def __init__(self, stages: str, environment: dict[str, str], log: Path) -> None:
        self.port = free_port()
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streams", "agent", "--stages", stages],
                env=os.environ | environment | {"INTERESTREAM_AGENT_PORT": str(self.port)},
                stdout=out,
                stderr=out,
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> float:
        """SIGTERM; return the seconds until it has ended: of itself, with exit code 0, and leaving nothing open."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(LONG_S)
        seconds = time.monotonic() - begun
        assert code == 0, f"exit code {code}:\n{self.said()[-3000:]}"
        for unclean in ("Traceback", "Unclosed", "never retrieved", "cut off"):
            assert unclean not in self.said(), self.said()[-3000:]
        return seconds

    def ended_with(self) -> int:
        """Wait until it ends by itself; return the exit code."""
        return self.process.wait(LONG_S)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of its HTTP server; 0 where it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> bool:
        return self.get("/ready")[0] == 200

    def reasons(self) -> list[str]:
        """Why it says that it is not ready; empty where it is, or does not answer."""
        status, body = self.get("/ready")
        return list(json.loads(body)["reasons"]) if status == 503 else []

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over all labels but those given."""
        found = 0.0
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                if sample.name == name and all(sample.labels.get(label) == value for label, value in labels.items()):
                    found += sample.value
        return found


@dataclass
class Site:
    """One installation: its topics, its store, and the workers that were started for it."""

    kafka: KafkaSettings
    store: str
    folder: Path
    extra: dict[str, str] = field(default_factory=dict)  # settings of its workers
    workers: list[Worker] = field(default_factory=list)
    _engine: Engine | None = None

    @property
    def topics(self) -> Topics:
        return Topics(self.kafka.prefix)

    @property
    def engine(self) -> Engine:
        """For looking only; the workers make the tables."""
        if self._engine is None:
            self._engine = create_engine(self.store, pool_pre_ping=True)
        return self._engine

    @property
    def environment(self) -> dict[str, str]:
        return {
            "INTERESTREAM_STORE": self.store,
            "INTERESTREAM_KAFKA": self.kafka.brokers,
            "INTERESTREAM_KAFKA_PREFIX": self.kafka.prefix,
            "INTERESTREAM_KAFKA_PARTITIONS": str(self.kafka.partitions),
            "INTERESTREAM_KAFKA_SESSION_TIMEOUT_S": str(self.kafka.session_timeout_s),
            "INTERESTREAM_INGEST_COUNT": str(COUNT),
            "INTERESTREAM_INGEST_BATCH": "500",  # many transactions, so that a fault falls into one
            **self.extra,
        }

    def command(self, *arguments: str, code: int = 0) -> str:
        """Run an `interestream` command; return what it said. Its exit code must be `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "streams", *arguments],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def start(self, stages: str = "ingest", *, wait: bool = True) -> Worker:
        """Start a worker and wait until it answers."""
        worker = Worker(stages, self.environment, self.folder / f"worker-{len(self.workers)}.log")
        self.workers.append(worker)
        if wait:
            until(
                lambda: worker.get("/live")[0] == 200 or not worker.alive,
                "a worker answers",
                START_S,
            )
            assert worker.alive, worker.said()[-3000:]
        return worker

    def produce(self, messages: Sequence[Message]) -> list[tuple[int, int]]:
        """Send to `behaviors`; return each message's partition and offset."""
        return produce(self.kafka, self.topics.behaviors, messages)

    def consumed(self) -> int:
        """Messages of `behaviors` that the store has dealt with."""
        query = select(func.coalesce(func.sum(offsets.c.offset), 0)).where(
            offsets.c.source == source_of(self.topics.behaviors)
        )
        with self.engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def counted(self, column: str) -> int:
        """A sum over the Kafka partitions: accepted, late, duplicates, rejected."""
        with self.engine.connect() as connection:
            return int(connection.execute(select(func.coalesce(func.sum(offsets.c[column]), 0))).scalar_one())

    def wait_for(self, rows: int) -> None:
        """Wait until the store has dealt with so many messages, and no more, and all is announced."""

        def done() -> bool:
            for worker in self.workers:
                code = worker.process.poll()
                assert code in (None, 0, -signal.SIGKILL), f"a worker ended with {code}:\n{worker.said()[-3000:]}"
            return self.consumed() >= rows

        until(done, f"{rows} messages are consumed")
        assert self.consumed() == rows
        until(lambda: self.unsent() == 0, "everything is announced")

    def unsent(self) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(outbox)).scalar_one())

    def announced(self) -> list[dict[str, Any]]:
        """The messages of the topic `partitions`."""
        return [msgspec.json.decode(record.value) for record in read_topic(self.kafka, self.topics.partitions)]

    def close(self) -> None:
        for worker in self.workers:
            if worker.alive:
                worker.wake()
                worker.kill()
        if self._engine is not None:
            self._engine.dispose()


@contextmanager
def undisturbed(folder: Path, log: Sequence[Behavior]) -> Iterator[Engine]:
    """A store after the embedded replay of the same log."""
    file = folder / "log.jsonl"
    file.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in log))
    engine = open_store(f"sqlite:///{folder / 'undisturbed.db'}")
    try:
        replay(engine, BehaviorLog(file, {}), Policy(count=COUNT))
        yield engine
    finally:
        engine.dispose()


def rows_of(engine: Engine, table: str) -> list[tuple[Any, ...]]:
    """All rows of a table, sorted here: databases sort text each in its own way."""
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(select(metadata.tables[table]))]
    return sorted(rows, key=repr)


def assert_as_undisturbed(site: Site, log: Sequence[Behavior]) -> None:
    """Behaviours and partitions are those of the undisturbed run; each partition was announced, and nothing else."""
    with undisturbed(site.folder, log) as engine:
        assert rows_of(site.engine, "behaviors") == rows_of(engine, "behaviors")
        assert rows_of(site.engine, "partitions") == rows_of(engine, "partitions")
        with engine.connect() as connection:
            assert site.counted("accepted") == connection.execute(select(func.count()).select_from(behaviors)).scalar()
            assert site.counted("duplicates") == len(log) - site.counted("accepted")
    assert_announced(site)


def assert_announced(site: Site) -> None:
    """Every closed partition of the store was announced as it is there; nothing else was; each user's in order."""
    with site.engine.connect() as connection:
        kept = {  # what only stores with scenes apart have is null here, and not in the message
            (row["user_id"], row["generation"], row["index"]): {k: v for k, v in row.items() if v is not None}
            for row in connection.execute(select(partitions)).mappings()
        }
    firsts: dict[tuple[str, int], list[int]] = {}
    said = set()
    for one in site.announced():
        one.setdefault("generation", 0)
        key = (one["user_id"], one["generation"], one["index"])
        assert kept.get(key) == one
        if key not in said:
            firsts.setdefault(key[:2], []).append(one["index"])
        said.add(key)
    missing = sorted(set(kept) - said)
    assert not missing, f"{len(missing)} of {len(kept)} partitions are not announced: {missing[:5]}"
    assert [order for order in firsts.values() if order != sorted(order)] == []
