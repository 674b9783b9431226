"""The ingest stage: behaviours from Kafka become rows of the store, for ever. One transaction a polled batch.

While one batch is written by a thread, the next is fetched, decoded and folded. Whatever goes wrong (a rebalance,
another writer, a store or a broker that is away), everything in flight is dropped, the stored positions are read again,
and reading goes on from there: memory is never trusted over the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from interest.errors import InterestreamError
from interest.store import counters
from interest.store.sql import read_items
from streams.kafka.clients import make_producer
from streams.stages.announce import Announcer
from streams.stages.consumer.assignment import Assignment, KafkaPartition
from streams.stages.consumer.consumer import TopicConsumer
from streams.stages.ingest.batch import IngestBatch, build_batch, build_sweep_batch
from streams.stages.ingest.duplicates import DuplicateLog
from streams.stages.ingest.errors import ErrorPolicy
from streams.stages.ingest.offsets import OffsetsInStore, StoredOffsets
from streams.stages.ingest.policy import policy_of
from streams.stages.ingest.sweeps import SWEEP_S, Sweeps, watermark_of
from streams.stages.retry import RetryPolicy, connected
from streams.stages.stage import Context
from streams.store.outbox import Announcement
from streams.ubsp.bulk_insert import refused_content
from streams.ubsp.ingest import FencedError, ForgottenError, Ingest, fewer_collections

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

POLL_S = 0.2  # how long a poll waits for the first message; it never waits for a second
IDLE_S = 1.0  # without a batch for so long, what was acknowledged is taken out of the outbox by itself
LEAVE_S = 1.0  # for each goodbye: a broker that is there answers at once
ITEMS_S = 1.0  # a token policy looks so often whether another worker has changed the catalogue
FETCH_BYTES = 4_194_304  # of one partition in one fetch: 20,000 messages

R = TypeVar("R")
log = structlog.get_logger()


class _MovedError(Exception):
    """The group has given the partitions anew, or is about to."""


class IngestStage:
    """Consumes behaviors, items and users; announces closed partitions."""

    name = "ingest"

    def __init__(self, context: Context) -> None:
        self._context, self._topics = context, context.topics
        self._policy = policy_of(context.settings.ingest)
        self._duplicates = DuplicateLog()
        self._retry = RetryPolicy(context, self.name)
        self._consumer: TopicConsumer[StoredOffsets] | None = None
        self._producer: AIOKafkaProducer | None = None
        # the ends of items and users, read before any behaviour
        self._held_back: dict[KafkaPartition, int] | None = None
        self._pending: asyncio.Task[None] | None = None  # the transaction in flight
        self._acknowledged: list[Announcement] = []  # to be taken out of the outbox
        self._limit = context.settings.ingest.batch
        # offsets of messages that the store refuses, and its words
        self._poison: dict[KafkaPartition, dict[int, str]] = {}
        # dead letters that are there, of messages not yet stepped over
        self._dead_lettered: set[tuple[str, int, int]] = set()
        self._errors = ErrorPolicy(self._retry)
        self._last_message_at: dict[KafkaPartition, float] = {}  # monotonic, by partition
        self._written_at = self._swept_at = self._items_at = 0.0
        self._catalogue = 0  # how often the catalogue had changed when it was read

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; see streams.stages.stage.Stage."""
        stopping = asyncio.create_task(stop.wait(), name="ingest-stop")
        work = asyncio.create_task(self._work(stopping), name="ingest-work")
        half = self._context.settings.agent.drain_s / 2
        try:
            with fewer_collections():
                await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
                # it ends by itself with what is in flight; if it waits for somebody who does not answer, it is cut off
                await asyncio.wait({work}, timeout=half)
            if work.done():
                work.result()
        except InterestreamError as error:
            self._context.health.refused = str(error)
            raise
        finally:
            stopping.cancel()
            work.cancel()
            await asyncio.wait({work, asyncio.create_task(self._close())}, timeout=half)

    async def _work(self, stopping: asyncio.Task[bool]) -> None:
        memory = self._context.settings.ingest.memory_mb << 20
        self._ingest = await self._retry.store(
            lambda: Ingest(self._context.engine, self._policy, memory=memory), "cannot open the store"
        )
        settings = self._context.settings.kafka
        self._producer = await connected(self._context, self.name, lambda: make_producer(settings))
        self._announcer = Announcer(self._context, self._producer, self.name)
        self._consumer = self._make_consumer(self._producer)
        await self._unless(stopping, self._consumer.start())
        while not stopping.done():
            try:
                await self._step(self._consumer, stopping)
            except (_MovedError, ForgottenError):
                self._consumer.invalidate()
            except Exception as error:
                self._consumer.invalidate()
                if isinstance(error, FencedError):
                    self._context.metrics.fenced.inc()
                await asyncio.wait({stopping}, timeout=self._errors.wait_after(error))
        await self._settle()

    def _make_consumer(self, producer: AIOKafkaProducer) -> TopicConsumer[StoredOffsets]:
        """The range assignor gives one worker the same partition numbers of all topics."""
        from aiokafka.coordinator.assignors.range import RangePartitionAssignor

        topics = self._topics.read_by(self.name)
        return TopicConsumer(
            self._context,
            stage=self.name,
            topics=topics,
            offsets=OffsetsInStore(self._context, self.name, topics),
            producer=producer,
            on_assigned=self._on_assigned,
            on_revoked=self._on_revoked,
            held=(self._topics.behaviors,),
            options={
                "partition_assignment_strategy": (RangePartitionAssignor,),
                "max_partition_fetch_bytes": FETCH_BYTES,
            },
        )

    async def _on_revoked(self, _partitions: Collection[KafkaPartition]) -> None:
        """The next worker begins where the transaction in flight ends; its positions are checked in any case."""
        if self._pending is not None:
            await asyncio.wait({self._pending})

    async def _on_assigned(self, partitions: Collection[KafkaPartition]) -> None:
        """After the positions were read: memory begins empty, and what a worker before left in the outbox is sent."""
        await asyncio.to_thread(self._ingest.load)
        if self._policy.tokens is not None:
            await self._read_items()
        behaviors = [place.partition for place in partitions if place.topic == self._topics.behaviors]
        await self._announcer.send_left([self._topics.partitions], behaviors)

    async def _step(self, consumer: TopicConsumer[StoredOffsets], stopping: asyncio.Task[bool]) -> None:
        """Poll, build a batch, and hand it over to the thread that writes once that is free."""
        assignment = consumer.assignment
        if assignment is None or not assignment.is_open():
            assignment = await self._unless(stopping, self._resume(consumer))
            if assignment is None:
                await asyncio.wait({stopping}, timeout=POLL_S)
                return
        polled = await self._unless(stopping, consumer.poll(POLL_S, self._limit))
        if polled is None:
            return
        if not assignment.is_open():
            raise _MovedError
        positions = assignment.offsets.positions
        # after the last message there may be others that are none: what compaction left, ends of transactions
        ends = {place: await consumer.position(place) for place in positions}
        ends = {place: end for place, end in ends.items() if end != positions[place].offset}
        if not ends:
            await self._settle()
        else:
            self._last_message_at |= dict.fromkeys(polled, time.monotonic())
            batch = await asyncio.to_thread(
                build_batch, self._ingest, self._topics, polled, ends, positions, self._poison
            )
            await self._settle()
            self._submit(assignment, batch)
            if batch.items and self._policy.tokens is not None:
                await self._settle()
                await self._read_items()
        self._resume_behaviors(consumer, assignment)
        await self._housekeeping(assignment)

    async def _unless(self, stopping: asyncio.Task[bool], work: Coroutine[Any, Any, R]) -> R | None:
        """What the work returns; none where the stage is to stop before."""
        running = asyncio.ensure_future(work)
        try:
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return running.result() if running.done() else None
        finally:
            running.cancel()

    def _submit(self, assignment: Assignment[StoredOffsets], batch: IngestBatch) -> None:
        if not assignment.is_open():
            raise _MovedError
        assignment.offsets.positions |= {place: move.after for place, move in batch.moves.items()}
        self._pending = asyncio.create_task(self._commit(assignment, batch), name="ingest-commit")

    async def _commit(self, assignment: Assignment[StoredOffsets], batch: IngestBatch) -> None:
        """One batch becomes the store's.

        1. the unusable messages are in the topics of dead letters, acknowledged;
        2. the transaction, which advances the offsets over all of them;
        3. count;
        4. announce; what is acknowledged leaves the outbox with the next transaction.
        """
        assert self._consumer is not None
        letters = {(one[0].topic, one[0].partition, one[0].offset): one for one in batch.refused}
        fresh = [one for place, one in letters.items() if place not in self._dead_lettered]
        await self._consumer.dead_letters.send(fresh)  # 1
        self._dead_lettered |= letters.keys()
        begun = time.monotonic()
        try:
            await asyncio.to_thread(
                self._ingest.write, batch.moves.values(), batch.folded, swept=batch.swept,
                acknowledged=self._acknowledged, announcements=batch.announcements, also=batch.apply,
            )  # 2  # fmt: skip
        except SQLAlchemyError as error:
            self._isolate_poison(batch, error)
            raise
        self._acknowledged = []
        self._dead_lettered -= letters.keys()
        self._count(assignment, batch, time.monotonic() - begun)  # 3
        await self._announcer.send(batch.announcements)  # 4
        self._acknowledged = batch.announcements

    async def _settle(self) -> None:
        """Wait for the transaction in flight; raise what went wrong with it."""
        pending = self._pending
        if pending is not None:
            await asyncio.wait({pending})
            if self._pending is pending:
                self._pending = None
            pending.result()

    def _isolate_poison(self, batch: IngestBatch, error: SQLAlchemyError) -> None:
        """Where the store refuses a row for good, halve the batch until the message is alone; then it is known."""
        words = refused_content(error)
        if words and batch.count:
            self._limit = max(1, batch.count // 2)
            if batch.only is not None:
                place, offset = batch.only
                self._poison.setdefault(place, {})[offset] = words

    def _count(self, assignment: Assignment[StoredOffsets], batch: IngestBatch, seconds: float) -> None:
        self._written_at = time.monotonic()
        self._errors.written()
        self._limit = min(self._limit * 2, self._context.settings.ingest.batch)
        self._context.health.up("store")
        batch.count_in(self._context.metrics, self.name, self._topics.behaviors, seconds)
        self._duplicates.add(batch.folded, str(self._ingest.policy.dedupe))
        for place, move in batch.moves.items():
            assignment.offsets.written[place] = move.after.offset
            known = self._poison.pop(place, {})
            if left := {offset: why for offset, why in known.items() if offset >= move.after.offset}:
                self._poison[place] = left

    async def _resume(self, consumer: TopicConsumer[StoredOffsets]) -> Assignment[StoredOffsets] | None:
        """Go on where the store stands, items and users to their end first, then behaviours; none while the group has
        not given this worker its partitions. The transaction in flight may end first, however it ends."""
        await asyncio.gather(self._settle(), return_exceptions=True)
        self._acknowledged = []
        assignment = await consumer.resume()
        if assignment is None:
            return None
        behaviors, now = self._topics.behaviors, time.monotonic()
        places = assignment.partitions
        self._held_back = {place: assignment.ends[place] for place in places if place.topic != behaviors}
        self._sweeps = Sweeps(self._ingest, behaviors, assignment.offsets.topics[behaviors].partitions, places)
        self._last_message_at = dict.fromkeys(places, now)
        self._resume_behaviors(consumer, assignment)
        return assignment

    def _resume_behaviors(self, consumer: TopicConsumer[StoredOffsets], assignment: Assignment[StoredOffsets]) -> None:
        """Let behaviours come once items and users have been read to where they ended."""
        if self._held_back is None or not assignment.is_open():
            return
        positions = assignment.offsets.positions
        if all(positions[place].offset >= end for place, end in self._held_back.items()):
            consumer.unpause([place for place in positions if place.topic == self._topics.behaviors])
            self._held_back = None

    async def _read_items(self) -> None:
        def read() -> tuple[int, dict[str, Any]]:
            with self._context.engine.connect() as connection:
                return counters.read(connection, counters.ITEMS), read_items(connection)

        self._catalogue, self._ingest.items = await asyncio.to_thread(read)

    def _changes(self) -> int:
        with self._context.engine.connect() as connection:
            return counters.read(connection, counters.ITEMS)

    async def _housekeeping(self, assignment: Assignment[StoredOffsets]) -> None:
        """What is to be done now and then: the outbox when idle, a sweep, another worker's items."""
        now = time.monotonic()
        if self._acknowledged and self._pending is None and now - self._written_at >= IDLE_S:
            await asyncio.to_thread(self._announcer.remove, self._acknowledged)
            self._acknowledged = []
        if self._policy.tokens is not None and now - self._items_at >= ITEMS_S:
            self._items_at = now
            if await asyncio.to_thread(self._changes) != self._catalogue:
                await self._read_items()
        if self._policy.sweeps and now - self._swept_at >= SWEEP_S and self._held_back is None:
            self._swept_at = now
            await self._settle()
            await self._sweep(assignment, now)

    async def _sweep(self, assignment: Assignment[StoredOffsets], now: float) -> None:
        """Close what event time alone has ended, of the users that are this worker's."""
        positions, written = assignment.offsets.positions, assignment.offsets.written
        places = [place for place in positions if place.topic == self._topics.behaviors]
        silence = self._context.settings.ingest.idle_s
        at_end = {place: written[place] >= assignment.ends[place] for place in places}
        idle = {place: at_end[place] and now - self._last_message_at[place] >= silence for place in places}
        engine, topic = self._context.engine, self._topics.behaviors
        watermark = await asyncio.to_thread(watermark_of, engine, topic, positions, idle)
        if watermark is None or not self._sweeps.due(watermark):
            return
        closed = await asyncio.to_thread(self._sweeps.step, watermark, stored=all(at_end.values()))
        if closed:
            first_n = self._sweeps.numbers(positions, closed)
            self._submit(assignment, build_sweep_batch(self._topics, positions, closed, first_n))
            await self._settle()
        if all(idle.values()):
            self._swept_at = 0.0  # nothing else to do: the store's users without a pause

    async def _close(self) -> None:
        """Give what time there is to the transaction in flight, then leave the group."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._settle(), LEAVE_S)
            await asyncio.to_thread(self._announcer.remove, self._acknowledged)
        if self._consumer is not None:
            await self._consumer.stop(LEAVE_S)
        if self._producer is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._producer.stop(), LEAVE_S)
