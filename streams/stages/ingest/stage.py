"""The ingest stage: behaviours from Kafka become rows of the store, for ever. One transaction a polled batch.

While one batch is written by a thread, the next is fetched, decoded and folded. Whatever goes wrong (a rebalance,
another writer, a store or a broker that is away), everything in hand is dropped, the stored positions are read again,
and reading goes on from there: memory is never trusted over the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from interest.errors import InterestreamError
from interest.store.sql import read_items
from streams.kafka.clients import commit, make_producer
from streams.stages.announce import Announcer
from streams.stages.dead_letters import send_to_dead_letter
from streams.stages.ingest.batch import IngestBatch, KafkaPartition, build_batch, build_sweep_batch
from streams.stages.ingest.duplicates import DuplicateLog
from streams.stages.ingest.errors import ErrorPolicy
from streams.stages.ingest.join import join, topic_partition
from streams.stages.ingest.lag import LagReporter
from streams.stages.ingest.offsets import TopicOffsets, read_topic_offsets, resume
from streams.stages.ingest.policy import policy_of
from streams.stages.ingest.sweeps import SWEEP_S, Sweeps, watermark_of
from streams.stages.retry import RetryPolicy, connected
from streams.stages.stage import Context
from streams.store import counters
from streams.store.outbox import Announcement
from streams.ubsp.bulk_insert import refused_content
from streams.ubsp.ingest import ForgottenError, Ingest, Position, fewer_collections

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

POLL_S = 0.2  # how long a poll waits for the first message; it never waits for a second
IDLE_S = 1.0  # without a batch for so long, what was acknowledged is taken out of the outbox by itself
CHECK_S = 30.0  # between two looks at whether the topics are still the same
HAND_OVER_S = 5.0  # a rebalance waits so long for the transaction in hand; its positions are checked in any case
LEAVE_S = 1.0  # for each goodbye: a broker that is there answers at once
ITEMS_S = 1.0  # a token policy looks so often whether another worker has changed the catalogue
log = structlog.get_logger()


class _MovedError(Exception):
    """The group has given the partitions anew, or is about to."""


class IngestStage:
    """Consumes behaviors, items and users; announces closed partitions."""

    name = "ingest"

    def __init__(self, context: Context) -> None:
        self._context, self._topics = context, context.topics
        self._consumed = self._topics.read_by(self.name)
        self._policy = policy_of(context.settings.ingest)
        self._duplicates = DuplicateLog()
        self._retry = RetryPolicy(context, self.name)
        self._consumer: AIOKafkaConsumer | None = None
        self._producer: AIOKafkaProducer | None = None
        self._lag: LagReporter | None = None
        self._generation = 0  # counts what the group has given and taken
        self._begun = -1  # the generation for which the stored positions were read
        self._outside = 0  # the generation in which the group no longer knew this worker; 0: nothing was given yet
        self._positions: dict[KafkaPartition, Position] = {}  # as folded: ahead of the store by what is pending
        self._topic_offsets: dict[str, TopicOffsets] = {}
        # the ends of items and users, read before any behaviour
        self._held_back: dict[KafkaPartition, int] | None = None
        self._pending: asyncio.Task[None] | None = None  # the transaction in hand
        self._acknowledged: list[Announcement] = []  # to be taken out of the outbox
        self._limit = context.settings.ingest.batch
        # offsets of messages that the store refuses, and its words
        self._poison: dict[KafkaPartition, dict[int, str]] = {}
        # dead letters that are there, of messages not yet stepped over
        self._dead_lettered: set[tuple[str, int, int]] = set()
        self._errors = ErrorPolicy(context, self.name)
        self._seen: dict[KafkaPartition, float] = {}  # when each partition last had a message
        self._written_at = self._swept_at = self._items_at = 0.0
        self._catalogue = 0  # how often the catalogue had changed when it was read
        self._checking: asyncio.Task[dict[str, TopicOffsets]] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; see streams.stages.stage.Stage."""
        stopping = asyncio.create_task(stop.wait(), name="ingest-stop")
        work = asyncio.create_task(self._work(stopping), name="ingest-work")
        half = self._context.settings.agent.drain_s / 2
        try:
            with fewer_collections():
                await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
                # it ends by itself with what is in hand; if it waits for somebody who does not answer, it is cut off
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
        while not stopping.done():
            try:
                if self._consumer is None:
                    await self._connect()
                await self._step(stopping)
            except (_MovedError, ForgottenError):
                self._begun = -1
            except Exception as error:
                self._begun = -1
                wait_s, anew = self._errors.judge(error)
                if anew:
                    await self._disconnect()
                await asyncio.wait({stopping}, timeout=wait_s)
        await self._settle()

    async def _connect(self) -> None:
        """Join the group, once the topics are there."""
        await asyncio.to_thread(read_topic_offsets, self._context.settings.kafka, self._consumed)
        self._consumer = await join(self._context, self.name, self._consumed, self._revoked, self._assigned)
        self._lag = LagReporter(self._context, self.name, self._consumer)

    async def _revoked(self) -> None:
        self._generation += 1
        if self._pending is not None:  # the next worker begins where this transaction ends
            patience = min(HAND_OVER_S, self._context.settings.kafka.session_timeout_s / 3)
            await asyncio.wait({self._pending}, timeout=patience)

    def _assigned(self) -> None:
        self._generation += 1

    async def _disconnect(self) -> None:
        lag, consumer, self._lag, self._consumer = self._lag, self._consumer, None, None
        self._outside = self._generation
        if lag is not None:
            await lag.close()
        if consumer is not None:
            with contextlib.suppress(TimeoutError):  # without a broker there is nobody to take leave of
                await asyncio.wait_for(consumer.stop(), LEAVE_S)

    async def _step(self, stopping: asyncio.Task[bool]) -> None:
        """Poll, prepare, and hand over to the thread that writes once it is free."""
        assert self._consumer is not None
        if self._begun != self._generation and not await self._resume():
            await asyncio.wait({stopping}, timeout=POLL_S)
            return
        polled = await self._poll(stopping)
        ends = {place: await self._consumer.position(topic_partition(place)) for place in self._positions}
        if self._begun != self._generation:
            raise _MovedError
        # after the last message there may be others that are none: what compaction left, ends of transactions
        ends = {place: end for place, end in ends.items() if end != self._positions[place].offset}
        if not ends:
            await self._settle()
        else:
            self._seen |= dict.fromkeys(polled, time.monotonic())
            batch = await asyncio.to_thread(
                build_batch, self._ingest, self._topics, polled, ends, self._positions, self._poison
            )
            await self._settle()
            self._submit(batch)
            if batch.items and self._policy.tokens is not None:
                await self._settle()
                await self._read_items()
        self._resume_behaviors()
        await self._housekeeping()

    async def _poll(self, stopping: asyncio.Task[bool]) -> dict[KafkaPartition, Sequence[Any]]:
        """The next messages, maybe none: never waits for a full batch."""
        from aiokafka.errors import NoOffsetForPartitionError

        assert self._consumer is not None
        poll = asyncio.create_task(self._consumer.getmany(timeout_ms=int(POLL_S * 1000), max_records=self._limit))
        try:
            await asyncio.wait({poll, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not poll.done():
                return {}
            found = {KafkaPartition(*place): messages for place, messages in poll.result().items()}
        except NoOffsetForPartitionError:  # aiokafka asked the group before we could seek; the offset is in the store
            return {}
        finally:
            poll.cancel()
        self._errors.read()
        return found

    def _submit(self, batch: IngestBatch) -> None:
        if self._begun != self._generation:
            raise _MovedError
        self._positions |= {place: move.after for place, move in batch.moves.items()}
        self._pending = asyncio.create_task(self._commit(batch), name="ingest-commit")

    async def _commit(self, batch: IngestBatch) -> None:
        """One batch becomes the store's.

        1. the unusable messages are in the topics of dead letters, acknowledged;
        2. the transaction, which advances the offsets over all of them;
        3. count;
        4. announce; what is acknowledged leaves the outbox with the next transaction.
        """
        assert self._producer is not None
        letters = {(one[0].topic, one[0].partition, one[0].offset): one for one in batch.refused}
        fresh = [one for place, one in letters.items() if place not in self._dead_lettered]
        await send_to_dead_letter(self._context, self._retry, self._producer, fresh)  # 1
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
        self._count(batch, time.monotonic() - begun)  # 3
        await self._announcer.send(batch.announcements)  # 4
        self._acknowledged = batch.announcements

    async def _settle(self) -> None:
        """Wait for the transaction in hand; raise what went wrong with it."""
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

    def _count(self, batch: IngestBatch, seconds: float) -> None:
        self._written_at = time.monotonic()
        self._errors.written()
        self._limit = min(self._limit * 2, self._context.settings.ingest.batch)
        self._context.health.up("store")
        batch.count_in(self._context.metrics, self.name, self._topics.behaviors, seconds)
        self._duplicates.add(batch.folded, str(self._ingest.policy.dedupe))
        for place, move in batch.moves.items():
            if self._lag is not None:
                self._lag.done(place, move.after.offset)
            known = self._poison.pop(place, {})
            if left := {offset: why for offset, why in known.items() if offset >= move.after.offset}:
                self._poison[place] = left

    async def _resume(self) -> bool:
        """Go on where the store stands; False while the group has not given this worker its partitions.

        1. let the transaction in hand end, however it ends, and drop what memory holds;
        2. compare the topics with the stored positions;
        3. see that the group still knows this worker: one that was frozen may be out of it, and must not write;
        4. send what the worker before may have left in the outbox;
        5. seek; items and users to their end first, then behaviours.
        """
        from aiokafka.errors import CommitFailedError

        await asyncio.gather(self._settle(), return_exceptions=True)  # 1
        generation, consumer, lag = self._generation, self._consumer, self._lag
        assert consumer is not None
        assert lag is not None
        self._positions, self._acknowledged = {}, []
        if generation == self._outside:
            return False
        engine, settings = self._context.engine, self._context.settings.kafka
        await asyncio.to_thread(self._ingest.load)
        if self._policy.tokens is not None:
            await self._read_items()
        topic_offsets = await asyncio.to_thread(read_topic_offsets, settings, self._consumed)  # 2
        stored = {
            KafkaPartition(topic, partition): position
            for topic in self._consumed
            for partition, position in (await asyncio.to_thread(resume, engine, topic_offsets[topic])).items()
        }
        if generation != self._generation:
            return False
        mine = {KafkaPartition(*place): stored[KafkaPartition(*place)] for place in consumer.assignment()}
        offsets = {topic_partition(place): position.offset for place, position in mine.items()}
        try:
            if offsets:
                await commit(consumer, offsets)  # 3
        except CommitFailedError:
            log.warning("this worker is out of its group; it waits to be given partitions anew")
            self._outside = generation
            return False
        behaviors = [place for place in mine if place.topic == self._topics.behaviors]
        await self._announcer.send_left([self._topics.partitions], [place.partition for place in behaviors])  # 4
        if generation != self._generation:
            return False
        for place, offset in offsets.items():  # 5
            consumer.seek(place, offset)
        self._held_back = {
            place: topic_offsets[place.topic].ranges[place.partition][1] for place in mine if place not in behaviors
        }
        consumer.resume(*(topic_partition(place) for place in self._held_back))
        self._positions, self._topic_offsets, self._begun = mine, topic_offsets, generation
        self._resume_behaviors()
        self._sweeps = Sweeps(
            self._ingest, self._topics.behaviors, len(topic_offsets[self._topics.behaviors].ranges), mine
        )
        self._seen = dict.fromkeys(mine, time.monotonic())
        lag.given({place: position.offset for place, position in mine.items()})
        self._errors.begun()
        self._context.health.begun.add(self.name)
        log.info("reading", partitions=[f"{place.topic}[{place.partition}]" for place in sorted(behaviors)])
        return True

    def _resume_behaviors(self) -> None:
        """Let behaviours come once items and users have been read to where they ended."""
        if self._held_back is None or self._consumer is None:
            return
        if all(self._positions[place].offset >= end for place, end in self._held_back.items()):
            waiting = [place for place in self._positions if place.topic == self._topics.behaviors]
            self._consumer.resume(*(topic_partition(place) for place in waiting))
            self._held_back = None

    async def _read_items(self) -> None:
        def read() -> tuple[int, dict[str, Any]]:
            with self._context.engine.connect() as connection:
                return counters.read(connection, counters.ITEMS), read_items(connection)

        self._catalogue, self._ingest.items = await asyncio.to_thread(read)

    def _changes(self) -> int:
        with self._context.engine.connect() as connection:
            return counters.read(connection, counters.ITEMS)

    async def _housekeeping(self) -> None:
        """What is to be done now and then: the outbox when idle, a sweep, another worker's items, the topics' ids."""
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
            await self._sweep(now)
        if self._checking is None:
            self._checking = asyncio.create_task(self._read_topics_later(), name="ingest-topics")
        elif self._checking.done():
            checked, self._checking = self._checking, None
            if checked.exception() is None and any(
                (one.id, len(one.ranges)) != (self._topic_offsets[name].id, len(self._topic_offsets[name].ranges))
                for name, one in checked.result().items()
            ):
                raise _MovedError

    async def _read_topics_later(self) -> dict[str, TopicOffsets]:
        await asyncio.sleep(CHECK_S)
        return await asyncio.to_thread(read_topic_offsets, self._context.settings.kafka, self._consumed)

    async def _sweep(self, now: float) -> None:
        """Close what event time alone has ended, of the users that are this worker's."""
        assert self._lag is not None
        places = [place for place in self._positions if place.topic == self._topics.behaviors]
        silence = self._context.settings.ingest.idle_s
        at_end = {place: self._lag.at_end(place) for place in places}
        idle = {place: at_end[place] and now - self._seen[place] >= silence for place in places}
        engine, topic = self._context.engine, self._topics.behaviors
        watermark = await asyncio.to_thread(watermark_of, engine, topic, self._positions, idle)
        if watermark is None or not self._sweeps.due(watermark):
            return
        closed = await asyncio.to_thread(self._sweeps.step, watermark, stored=all(at_end.values()))
        if closed:
            first_n = self._sweeps.numbers(self._positions, closed)
            self._submit(build_sweep_batch(self._topics, self._positions, closed, first_n))
            await self._settle()
        if all(idle.values()):
            self._swept_at = 0.0  # nothing else to do: the store's users without a pause

    async def _close(self) -> None:
        """Give what time there is to the transaction in hand, then leave the group."""
        if self._checking is not None:
            self._checking.cancel()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._settle(), LEAVE_S)
            await asyncio.to_thread(self._announcer.remove, self._acknowledged)
        await self._disconnect()
        if self._producer is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._producer.stop(), LEAVE_S)
