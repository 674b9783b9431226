"""A stage's membership in its consumer group: one assignment for each rebalance, polls, commits, lag, dead letters.

Where the offsets live (in the store, or in the group) is the storage that a consumer is made with. Used by all three
stages; what the messages mean is theirs. Whatever goes wrong, the assignment is dropped and its offsets are read anew:
memory is never trusted over them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import structlog

from streams.kafka.clients import group_of, make_consumer
from streams.kafka.errors import RefusedError
from streams.stages.consumer.assignment import Assignment, KafkaPartition, O, OffsetStorage
from streams.stages.consumer.dead_letters import DeadLetterWriter
from streams.stages.consumer.message import Record
from streams.stages.consumer.progress import Progress, topic_partition
from streams.stages.consumer.topics import TopicOffsets, read_topic_offsets
from streams.stages.retry import RetryPolicy, connected
from streams.stages.stage import Context

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

REPORT_EVERY_S = 1.0  # between commits: a crash repeats about so much work; and between questions for the lag
ANSWER_S = 5.0  # without an answer for so long, there is no broker
CHECK_S = 30.0  # between two looks at whether the topics are still the same
AGAIN_S = 2.0  # a broker that has just started may not know its topics yet: it is asked twice
NO_POLL_LIMIT_MS = 2**31 - 1  # a worker that waits for the LLM reads nothing for hours, and must keep its partitions
REJOIN_AFTER = 3  # polls that fail in a row before the group is joined anew: aiokafka's own tasks can end

Hook = Callable[[Collection[KafkaPartition]], Awaitable[None]]
R = TypeVar("R")
log = structlog.get_logger()


class TopicConsumer(Generic[O]):
    """One stage's consumer. Call `start`; `resume` while there is no `assignment`, then `poll`; at the end `stop`.

    Args:
        stage: names the group, and the stage in metrics and health.
        producer: started; sends the dead letters.
        on_assigned: awaited with the partitions of an assignment before any message of theirs is handed out.
        on_revoked: awaited when partitions are about to go to another worker: finish what is quickly finished. At most
            `settle_s`; what is in flight then is lost.
        held: topics that `resume` leaves paused, until `unpause`.
        options: of the aiokafka consumer.
    """

    def __init__(
        self,
        context: Context,
        *,
        stage: str,
        topics: Sequence[str],
        offsets: OffsetStorage[O],
        producer: AIOKafkaProducer,
        on_assigned: Hook,
        on_revoked: Hook,
        held: Collection[str] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._context, self._stage, self._topics, self._offsets = context, stage, tuple(topics), offsets
        self._on_assigned, self._on_revoked = on_assigned, on_revoked
        self._held, self._options = held, dict(options or {})
        settings = context.settings
        # the group waits for this worker's answer for a session time-out at most
        self.settle_s = min(settings.agent.drain_s, settings.kafka.session_timeout_s / 3)
        self.dead_letters = DeadLetterWriter(context, stage, producer)
        self.assignment: Assignment[O] | None = None
        self.generation = 0  # counts rebalances: partitions taken away, and given
        self._given: tuple[KafkaPartition, ...] | None = None  # by the latest rebalance; none while it goes on
        self._retry = RetryPolicy(context, stage)
        self._client: AIOKafkaConsumer | None = None
        self._progress: Progress | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._failures = 0
        self.settled = False  # has been given its partitions (or none) at least once

    async def start(self) -> None:
        """Join the group; waits for a broker for as long as it takes. Cancel it to give up.

        Raises RefusedError where a topic is not there.
        """
        await self._join()
        self._tasks = [
            asyncio.create_task(self._report_regularly(), name=f"{self._stage}-progress"),
            asyncio.create_task(self._check_topics_regularly(), name=f"{self._stage}-topics"),
        ]

    async def stop(self, timeout_s: float) -> None:
        """Commit what is done with and leave the group."""
        deadline = time.monotonic() + timeout_s
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        client, self._client = self._client, None
        if client is not None:
            await within(deadline, self._commit())
            await within(deadline, client.stop())
        self.dead_letters.close()

    # Partitions come and go. aiokafka calls `_revoking` and `_assigning` from its own task.

    async def resume(self) -> Assignment[O] | None:
        """The assignment to work under from now on; none while the group has not given this worker its partitions.

        1. Read the offsets. 2. See that the group still knows this worker: one that was frozen may be out of it.
        3. Let the stage send what a worker before it left. 4. Seek, and read.
        Raises RefusedError where going on would pass over messages; the text names the remedy.
        """
        generation, client, given = self.generation, self._client, self._given
        if given is None or client is None:
            return None
        offsets = await _twice(partial(self._offsets.read, given))  # 1
        if generation != self.generation:
            return None
        assignment = Assignment(generation, offsets, ends=dict(offsets.end))
        progress = Progress(self._context, self._stage, client, assignment)
        known = await self._retry.kafka(progress.commit, "cannot commit")  # 2
        if generation != self.generation:
            return None
        if not known:
            log.warning("this worker is out of its group; it waits to be given partitions anew", stage=self._stage)
            self._given = None
            return None
        await self._on_assigned(assignment.partitions)  # 3
        if generation != self.generation:
            return None
        for place, offset in offsets.start.items():  # 4
            client.seek(topic_partition(place), offset)
        if self._progress is not None:
            self._progress.close(kept=offsets.start)
        self.assignment, self._progress, self.settled = assignment, progress, True
        self.unpause([place for place in offsets.start if place.topic not in self._held])
        self._context.health.begun.add(self._stage)
        progress.report()
        log.info("reading", stage=self._stage, partitions=[f"{one.topic}[{one.partition}]" for one in given])
        return assignment

    def unpause(self, places: Collection[KafkaPartition]) -> None:
        """Let messages of these partitions come."""
        if self._client is not None:
            self._client.resume(*map(topic_partition, places))

    def invalidate(self) -> None:
        """Drop the assignment, whose offsets are to be read anew; what is in flight is void."""
        if self.assignment is None or self.assignment.releasing:  # it is about to be dropped anyway
            return
        self.assignment.revoked = True
        self.assignment = None
        if self._client is not None and self._given:
            self._client.pause(*map(topic_partition, self._given))

    async def _revoking(self, _revoked: Collection[TopicPartition]) -> None:
        """1. Hand nothing more out. 2. Let the stage finish what it can. 3. Commit. 4. Give up what is left."""
        given, self._given = self._given, None
        self.generation += 1
        if self.assignment is not None:
            self.assignment.releasing = True  # 1
        deadline = time.monotonic() + self.settle_s
        try:
            await within(deadline, self._on_revoked(given or ()))  # 2
            await within(max(deadline, time.monotonic() + 1.0), self._commit())  # 3
        finally:
            self._drop()  # 4

    async def _assigning(self, given: Collection[TopicPartition]) -> None:
        """Hold the partitions still; `resume` reads where they begin, and says so itself if they must not be read."""
        assert self._client is not None
        self._drop()
        for one in given:
            self._client.seek(one, 0)  # a position, so that aiokafka looks for none; paused, it reads nothing there
            self._client.pause(one)
        self.generation += 1
        self._given = tuple(sorted(KafkaPartition(*one) for one in given))
        log.info(
            "partitions assigned", stage=self._stage, partitions=[f"{one.topic}[{one.partition}]" for one in given]
        )

    def _drop(self) -> None:
        if self.assignment is not None:
            self.assignment.revoked = True
        if self._progress is not None:
            self._progress.close()
        self.assignment = self._progress = None

    async def _join(self) -> None:
        """Join the group, once the topics are there."""
        settings = self._context.settings.kafka
        await _twice(self._read_topics)

        def make() -> AIOKafkaConsumer:
            group = group_of(settings, self._stage)
            return make_consumer(settings, group=group, max_poll_interval_ms=NO_POLL_LIMIT_MS, **self._options)

        self._client = await connected(self._context, self._stage, make)
        self._client.subscribe(list(self._topics), listener=_listener(self._revoking, self._assigning))

    async def _rejoin(self) -> None:
        """Make a new client: the old one's tasks may have ended."""
        log.warning("joining the group again", stage=self._stage)
        client, self._client, self._given = self._client, None, None
        self.generation += 1
        self._drop()
        if client is not None:
            await within(time.monotonic() + ANSWER_S, client.stop())
        await self._join()
        self._failures = 0

    # Reading.

    async def poll(
        self, timeout_s: float, max_records: int, partitions: Collection[KafkaPartition] = ()
    ) -> dict[KafkaPartition, Sequence[Record]]:
        """The next messages of the assignment (of these partitions, or of all), in order; maybe none.

        Waits for the first message only, and lets nothing else run between its arrival and the return. May be
        cancelled, to stop.
        """
        from aiokafka.errors import KafkaError as ClientError
        from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

        assignment, client = self.assignment, self._client
        if assignment is None or client is None or not assignment.is_open():
            return {}
        try:
            found = await client.getmany(
                *map(topic_partition, partitions), timeout_ms=int(timeout_s * 1000), max_records=max_records
            )
        except OffsetOutOfRangeError as error:  # retention has passed us by, or the topic was made again
            log.warning("offset out of range", stage=self._stage, at=str(error))
            await within(time.monotonic() + self.settle_s, self._commit())
            self.invalidate()
            return {}
        except NoOffsetForPartitionError:  # we seek ourselves; see `_assigning`
            return {}
        except (ClientError, OSError) as error:
            self._failures += 1
            await self._retry.failed("kafka", "cannot read", error, self._failures)
            if self._failures >= REJOIN_AFTER:
                await self._rejoin()
            return {}
        self._failures = 0
        if not assignment.is_open():
            return {}  # not ours any more; who has the partitions now reads them
        return {KafkaPartition(*place): records for place, records in found.items()}

    async def position(self, place: KafkaPartition) -> int:
        """The offset that is read next: after the last message, and after what follows it that is none."""
        assert self._client is not None
        return int(await self._client.position(topic_partition(place)))

    # Committing and reporting.

    async def _report_regularly(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            self.dead_letters.log_rest()
            progress = self._progress
            if progress is None:
                continue
            try:
                async with asyncio.timeout(ANSWER_S):
                    await progress.commit()
                    if await progress.ask_ends():
                        self._context.health.up("kafka")
            except Exception as error:  # whatever it is, commits must go on
                self._retry.report("kafka", "cannot commit", error, REPORT_EVERY_S)
            progress.report()

    async def _check_topics_regularly(self) -> None:
        """A topic that was made anew, or has other partitions, must not be read on unseen."""
        while True:
            await asyncio.sleep(CHECK_S)
            assignment = self.assignment
            try:
                found = await self._read_topics()
            except RefusedError:  # it may be about to be made again
                continue
            if assignment is None or not assignment.is_open():
                continue
            if {name: topic.state for name, topic in found.items()} != assignment.offsets.topics:
                await within(time.monotonic() + ANSWER_S, self._commit())
                if assignment is self.assignment:
                    self.invalidate()

    async def _read_topics(self) -> dict[str, TopicOffsets]:
        read = partial(asyncio.to_thread, read_topic_offsets, self._context.settings.kafka, self._topics)
        return await self._retry.kafka(read, "cannot read the topics")

    async def _commit(self) -> None:
        if self._progress is not None:
            await self._progress.commit()


async def within(deadline: float, work: Awaitable[None]) -> None:
    """Wait for it until the deadline (time.monotonic); what fails or is late is told and left."""
    try:
        async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
            await work
    except TimeoutError:
        log.info("not finished within the deadline")
    except Exception as error:
        log.warning("failed while giving up partitions", error=f"{type(error).__name__}: {error}")


async def _twice(read: Callable[[], Awaitable[R]]) -> R:
    """What is refused is asked for once more before it is believed."""
    try:
        return await read()
    except RefusedError:
        await asyncio.sleep(AGAIN_S)
        return await read()


def _listener(revoked: Callable[..., Awaitable[None]], assigned: Callable[..., Awaitable[None]]) -> Any:
    from aiokafka import ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
        async def on_partitions_revoked(self, revoked_now: Collection[TopicPartition]) -> None:
            await revoked(revoked_now)

        async def on_partitions_assigned(self, assigned_now: Collection[TopicPartition]) -> None:
            await assigned(assigned_now)

    return Listener()
