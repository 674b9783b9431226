"""One topic's messages, consumed in a group and acknowledged one by one, in any order.

The offset committed for a Kafka partition is its low-water mark: the first message that is not acknowledged. A crash
repeats what was acknowledged beyond it, never loses any; the stages that read by this are idempotent. Used by the
interest and the fusion stage; what the messages mean is theirs.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import structlog

from streams.kafka.clients import group_of, make_consumer
from streams.kafka.dead_letter import dead_letter
from streams.kafka.topics import dead_of
from streams.stages.consumer.commits import Commits
from streams.stages.consumer.message import Message, decoded, listener, within
from streams.stages.consumer.offset_tracker import OffsetTracker
from streams.stages.consumer.offsets import known_topic_id, read_group_offsets, resume_at
from streams.stages.retry import RetryPolicy, connected
from streams.stages.stage import Context

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

COMMIT_EVERY_S = 1.0  # between commits: a crash repeats about so much work
ASK_ENDS_EVERY_S = 5.0  # between questions for the end of the partitions: lag is known though nothing is read
MAX_AHEAD = 10_000  # messages read beyond one that does not finish: bounds what a crash repeats
NO_POLL_LIMIT_MS = 2**31 - 1  # a worker that waits for the LLM reads nothing for hours, and must keep its partitions
REJOIN_AFTER = 3  # polls that fail in a row before the consumer is made anew: aiokafka's own tasks can end

T = TypeVar("T")
log = structlog.get_logger()


async def _nothing(_partitions: Collection[int]) -> None:
    return


class TopicConsumer(Generic[T]):
    """The messages of one topic for one stage. Call `start`, then `take` and `acknowledge`, then `stop`.

    Args:
        stage: names the group, and the stage in metrics and health.
        decode: the value of (key, value); ValueError and msgspec.DecodeError mean a dead letter with their text.
        producer: started; sends the dead letters.
        window: messages in hand at once, at most.
        remedy: what to do when messages are gone, as a clause; see `positions.resume_at`.
        assigned: awaited with the Kafka partitions this worker was given, before any message of theirs is handed out.
        release: awaited when partitions are about to go to another worker: finish what is quickly finished. Without it
            everything in hand is waited for. Either way at most `settle_s`; what is in hand then is `lost`.
    """

    def __init__(
        self,
        context: Context,
        *,
        stage: str,
        topic: str,
        decode: Callable[[bytes | None, bytes | None], T],
        producer: AIOKafkaProducer,
        window: int,
        remedy: str,
        assigned: Callable[[Collection[int]], Awaitable[None]] = _nothing,
        release: Callable[[Collection[int]], Awaitable[None]] | None = None,
    ) -> None:
        self._context, self._stage, self._topic, self._decode = context, stage, topic, decode
        self._producer, self._window, self._remedy = producer, window, remedy
        self._assigned, self._release = assigned, release or self._empty
        kafka = context.settings.kafka
        # the group waits for this worker's answer for a session time-out at most
        self.settle_s = min(context.settings.agent.drain_s, kafka.session_timeout_s / 3)
        self._retry = RetryPolicy(context, stage)
        self._consumer: AIOKafkaConsumer | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._trackers: dict[int, OffsetTracker] = {}  # by Kafka partition: those that are read
        self._fresh: set[int] = set()  # given to this worker, and not yet read
        self._releasing = False
        self._assignment_generation = 0  # counts assignments: what was begun in another one is void
        self._in_flight: dict[tuple[int, int], Message[T]] = {}
        self._room = asyncio.Event()  # set when a message leaves the hand
        self._commits = Commits(context, stage, topic)
        self._topic_id = ""
        self._turn = 0
        self._failures = 0
        self.settled = False  # has been given its partitions (or none) at least once

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def partitions(self) -> list[int]:
        """The Kafka partitions that this worker reads now."""
        return sorted(self._trackers)

    async def start(self) -> None:
        """Join the group; waits for a broker for as long as it takes. Cancel it to give up."""
        await self._connect()
        self._ticking = asyncio.create_task(self._commit_regularly(), name=f"{self._stage}-commits")

    async def take(self, most: int | None = None, timeout_s: float = 0.2) -> list[Message[T]]:
        """The next messages, at most so many and at most what the window has room for; maybe none. In each Kafka
        partition they come in order, and partitions take turns.

        Undecodable ones are in the topic of dead letters before this returns. May be cancelled, to stop.

        Raises:
            KafkaError: going on would pass over messages; the text names the remedy.
        """
        if self._fresh:
            await self._resume()
        room = min(self._window - len(self._in_flight), most or self._window)
        if room <= 0 or not self._trackers or self._releasing:
            await self._wait_for_room(timeout_s)
            return []
        found = await self._poll(room, timeout_s)
        taken = []
        for message, problem in found:
            if problem is None:
                taken.append(message)
            else:
                await self.send_to_dead_letter(message, problem)
        return [message for message in taken if not message.lost]

    def acknowledge(self, messages: Iterable[Message[Any]]) -> None:
        """Their effect is stored (and announced): they are not needed any more."""
        now = time.time()
        count = 0
        for message in messages:
            if self._in_flight.get((message.partition, message.offset)) is not message:
                continue
            del self._in_flight[message.partition, message.offset]
            self._trackers[message.partition].acknowledge(message.offset)
            self._context.metrics.latency.labels(self._stage).observe(max(0.0, now - message.timestamp_ms / 1000))
            count += 1
        if count:
            self._context.metrics.messages.labels(self._stage, self._topic).inc(count)
            self._room.set()

    async def send_to_dead_letter(self, message: Message[Any], reason: str) -> None:
        """Write a message that can never be used to the topic of dead letters, then acknowledge it."""
        key, value, headers = dead_letter(
            message.topic, message.partition, message.offset, message.key, message.raw, message.timestamp_ms, reason
        )

        async def send() -> None:
            await self._producer.send_and_wait(dead_of(self._topic), value, key=key, headers=headers)

        await self._retry.kafka(send, "cannot write a dead letter")
        self._context.metrics.dead.labels(self._topic).inc()
        log.warning(
            "dead letter", stage=self._stage, topic=message.topic, partition=message.partition, offset=message.offset,
            reason=reason,
        )  # fmt: skip
        self.acknowledge([message])

    async def stop(self, timeout_s: float) -> None:
        """Commit what is acknowledged and leave the group."""
        deadline = time.monotonic() + timeout_s
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])
        if self._consumer is not None:
            await within(deadline, self._commit())
            await within(deadline, self._consumer.stop())
            self._consumer = None

    async def _empty(self, _partitions: Collection[int]) -> None:
        while self._in_flight:
            await self._wait_for_room(self.settle_s)

    async def _wait_for_room(self, timeout_s: float) -> None:
        self._room.clear()
        try:
            await asyncio.wait_for(self._room.wait(), timeout_s)
        except TimeoutError:
            return

    # Being given partitions, and giving them up. aiokafka calls `_on_revoked` and `_on_assigned` from its own task.
    async def _connect(self) -> None:
        settings = self._context.settings.kafka

        def make() -> AIOKafkaConsumer:
            return make_consumer(settings, group=group_of(settings, self._stage), max_poll_interval_ms=NO_POLL_LIMIT_MS)

        self._consumer = await connected(self._context, self._stage, make)
        self._consumer.subscribe([self._topic], listener=listener(self._on_revoked, self._on_assigned))

    async def _on_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """1. Hand nothing more out. 2. Let the stage finish what it can. 3. Commit. 4. Give up what is left."""
        partitions = sorted({one.partition for one in revoked} & (self._trackers.keys() | self._fresh))
        self._releasing = True  # 1
        try:
            deadline = time.monotonic() + self.settle_s
            await within(deadline, self._release(partitions))  # 2
            await within(max(deadline, time.monotonic() + 1.0), self._commit())  # 3
        finally:
            self._drop_assignment()  # 4
            self._releasing = False

    def _drop_assignment(self) -> None:
        for partition in [*self._trackers, *self._fresh]:
            self._context.health.unassigned(self._stage, self._topic, partition)
            self._context.metrics.lag.remove(self._stage, self._topic, str(partition))
        for message in self._in_flight.values():
            message.lost = True
        self._in_flight.clear()
        self._trackers.clear()
        self._fresh.clear()
        self._commits.forget()
        self._assignment_generation += 1
        self._room.set()

    async def _on_assigned(self, given: Collection[TopicPartition]) -> None:
        """Hold the partitions still; `take` reads where they begin, and says so itself if they must not be read."""
        assert self._consumer is not None
        self._drop_assignment()
        for one in given:
            self._consumer.seek(one, 0)  # a position, so that aiokafka looks for none; paused, it reads nothing there
            self._consumer.pause(one)
        self._fresh = {one.partition for one in given}
        if not given:
            self._set_settled()
        log.info("partitions assigned", stage=self._stage, topic=self._topic, partitions=sorted(self._fresh))

    async def _resume(self) -> None:
        """1. Ask where the group stands. 2. Refuse what would pass over messages. 3. Let the stage send what was left.
        4. Read."""
        from aiokafka import TopicPartition

        generation, partitions = self._assignment_generation, sorted(self._fresh)
        settings = self._context.settings.kafka

        async def read() -> Any:
            return await asyncio.to_thread(
                read_group_offsets, settings, group_of(settings, self._stage), self._topic, partitions
            )

        offsets = await self._retry.kafka(read, "cannot read the group's offsets")  # 1
        if generation != self._assignment_generation:
            return
        known = await self._retry.store(
            lambda: known_topic_id(self._context.engine, self._topic, offsets.topic_id), "cannot read the topic's id"
        )
        begin = resume_at(offsets, expected=settings.partitions, remedy=self._remedy, known=known)  # 2
        if generation != self._assignment_generation:
            return
        await self._assigned(partitions)  # 3
        if generation != self._assignment_generation or self._consumer is None:
            return
        self._topic_id = offsets.topic_id
        for partition, offset in begin.items():  # 4
            place = TopicPartition(self._topic, partition)
            offsets_here = offsets.by_partition[partition]
            self._trackers[partition] = tracker = OffsetTracker(offset, offsets_here.metadata)
            self._commits.begin(
                partition,
                offsets_here.end,
                (offset, tracker.metadata()) if offsets_here.committed is not None else None,
            )
            self._consumer.seek(place, offset)
            self._consumer.resume(place)
        self._fresh.clear()
        self._set_settled()
        self._commits.report(self._consumer, self._trackers)

    def _set_settled(self) -> None:
        self.settled = True
        self._context.health.begun.add(self._stage)

    # Reading.

    async def _poll(self, room: int, timeout_s: float) -> list[tuple[Message[T], str | None]]:
        """Messages with the reason for which one cannot be decoded, all in hand now."""
        from aiokafka.errors import KafkaError as ClientError
        from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

        assert self._consumer is not None
        try:
            found = await self._fetch(room, timeout_s)
        except OffsetOutOfRangeError as error:  # retention has passed us by, or the topic was made again
            places = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
            log.warning("offset out of range", stage=self._stage, topic=self._topic, at=str(places))
            self._fresh |= {one.partition for one in places} or set(self._trackers)
            await self._look_again()
            return []
        except NoOffsetForPartitionError:  # we seek ourselves; see `_on_assigned`
            return []
        except (ClientError, OSError) as error:
            self._failures += 1
            await self._retry.failed("kafka", f"cannot read {self._topic}", error)
            if self._failures >= REJOIN_AFTER:
                await self._rejoin()
            return []
        self._failures = 0
        return found

    async def _fetch(self, room: int, timeout_s: float) -> list[tuple[Message[T], str | None]]:
        """Partitions in turn: first up to a fair share of the window each, then whatever there is."""
        from aiokafka import TopicPartition

        assert self._consumer is not None
        generation = self._assignment_generation
        open_now = [partition for partition, tracker in sorted(self._trackers.items()) if tracker.ahead < MAX_AHEAD]
        if not open_now:
            await self._wait_for_room(timeout_s)
            return []
        self._turn += 1
        turn = self._turn % len(open_now)
        order = open_now[turn:] + open_now[:turn]
        share = max(1, self._window // len(order))
        found: list[tuple[Message[T], str | None]] = []
        for partition, quota in itertools.chain(
            ((one, share) for one in order), ((one, self._window) for one in order)
        ):
            most = min(room - len(found), quota - len(self._trackers[partition]))
            if most > 0:
                place = TopicPartition(self._topic, partition)
                found += await self._register(generation, [place], timeout_ms=0, max_records=most)
                if generation != self._assignment_generation:
                    return []
        if not found:
            places = [TopicPartition(self._topic, one) for one in order]
            found = await self._register(
                generation, places, timeout_ms=int(timeout_s * 1000), max_records=min(room, share)
            )
        return found

    async def _register(
        self, generation: int, places: list[TopicPartition], *, timeout_ms: int, max_records: int
    ) -> list[tuple[Message[T], str | None]]:
        """Take what is there in hand. Nothing may be awaited between getmany's return and the end: the low-water mark
        must never be computed from a position whose messages are not in hand yet."""
        assert self._consumer is not None
        batches = await self._consumer.getmany(*places, timeout_ms=timeout_ms, max_records=max_records)
        if generation != self._assignment_generation or self._releasing:
            return []  # not ours any more; who has the partition now reads them
        found = []
        for place, records in batches.items():
            tracker = self._trackers[place.partition]
            for record in records:
                if not tracker.take(record.offset):
                    continue  # a worker before this one was done with it
                message, problem = decoded(record, self._decode)
                self._in_flight[record.partition, record.offset] = message
                found.append((message, problem))
        for place in places:  # over control records
            self._trackers[place.partition].skip_to(await self._consumer.position(place))
        return found

    async def _look_again(self) -> None:
        """Ask anew where the group stands, with what is acknowledged committed: raises if messages are gone."""
        await within(time.monotonic() + self.settle_s, self._commit())
        await self._resume_again()

    async def _resume_again(self) -> None:
        for partition in self._fresh:
            for message in [one for one in self._in_flight.values() if one.partition == partition]:
                message.lost = True
                del self._in_flight[partition, message.offset]
            self._trackers.pop(partition, None)
            self._commits.forget(partition)
        self._room.set()
        await self._resume()

    async def _rejoin(self) -> None:
        """Make a new consumer: the old one's tasks may have ended."""
        log.warning("joining the group again", stage=self._stage, topic=self._topic)
        old, self._consumer = self._consumer, None
        self._drop_assignment()
        if old is not None:
            await within(time.monotonic() + 5.0, old.stop())
        await self._connect()
        self._failures = 0

    # Committing and reporting.

    async def _commit_regularly(self) -> None:
        asked = 0.0
        while True:
            await asyncio.sleep(COMMIT_EVERY_S)
            try:
                async with asyncio.timeout(ASK_ENDS_EVERY_S):
                    await self._commit()
                    if time.monotonic() - asked >= ASK_ENDS_EVERY_S:
                        await self._commits.ask_ends(self._consumer, self._trackers)
                        asked = time.monotonic()
                        self._context.health.up("kafka")
            except Exception as error:  # whatever it is, commits must go on
                why = str(error) or type(error).__name__
                self._context.health.failed("kafka", f"{self._stage} cannot commit: {why}")
                self._context.metrics.retries.labels(self._stage, type(error).__name__).inc()
                log.warning("not committed", stage=self._stage, topic=self._topic, error=why)
            self._commits.report(self._consumer, self._trackers)

    async def _commit(self) -> None:
        await self._commits.commit(self._consumer, self._trackers, self._topic_id)
