"""The interest stage: closed partitions in, interests in the store and their announcements out (LIBER, UIL).

A window of partitions is in flight; each is written as soon as what it needs is there, so that the model always has
calls to answer. A message is acknowledged once its interest is stored and announced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from interest.llm.cache import Answers
from interest.llm.protocol import Reply, Request
from interest.types import Interest, Partition
from interest.write.writer import InterestWriter, plain
from streams.kafka.clients import make_producer
from streams.kafka.messages import partition_of_message
from streams.resolve.llm import AgentLlm, agent_llm
from streams.stages.announce import Announcer
from streams.stages.consumer.message import Message
from streams.stages.consumer.window import MessageWindow
from streams.stages.interest.in_flight import InFlight, PartitionTask
from streams.stages.interest.llm_calls import LlmClient
from streams.stages.interest.rows import Key, LoadedPartitions, PartitionLoader, key_of, save
from streams.stages.retry import RetryPolicy, connected
from streams.stages.stage import Context
from streams.store.outbox import Announcement

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

STOP_S = 1.0  # for the producer, with nothing left to send
GATHER_S = 0.1  # what is finished within it is stored together: ten transactions a second at most
AT_ONCE = 64  # partitions loaded together: some 20 ms of SQL; and written together: a transaction of 10 ms
REMEDY = (
    "run `interestream learn`, which writes the interests of partitions that have none, and then "
    "`interestream topics accept {topic}`"
)

log = structlog.get_logger()


class InterestStage:
    """One worker's interest stage."""

    name = "interest"

    def __init__(self, context: Context) -> None:
        """Raises InputError for an LLM that the settings do not name well enough."""
        self.context = context
        self._llm: AgentLlm = agent_llm(context.settings.llm, context.engine)
        self._topic = context.topics.partitions
        self._announced = (context.topics.updates, context.topics.latest)
        self._retry = RetryPolicy(context, self.name)
        self._loader = PartitionLoader(context.engine, self._llm.plan, llm=self._llm.model is not None)
        self._answers: Answers | None = None
        self._client: LlmClient | None = None
        if self._llm.model is not None:
            self._client = LlmClient(context, self._llm.model, concurrent=context.settings.llm.concurrent)
            self._answers = Answers(
                context.engine,
                self._client.at(0),
                model=self._llm.name,
                prompt_version=self._llm.plan.prompt_version,
                write_every=None,  # they go into the stage's own transactions
            )
        self._in_flight = InFlight(self._retry, self._texts if self._answers else None)
        self._sent: list[Announcement] = []  # acknowledged by the broker, and still in the outbox
        self._closing = False
        self._beginning = asyncio.Lock()
        self._idle = asyncio.Event()  # nothing is being stored or announced
        self._window: MessageWindow[Partition]
        self._announcer: Announcer

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`, then drain: see `streams.stages.stage.Stage`.

        1. Connect. 2. Read, write and announce until `stop`, or until one of these fails. 3. Read no more, begin no
        call. 4. Let calls in flight end. 5. Store and announce what is finished. 6. Commit, leave the group.
        """
        stopped = asyncio.create_task(stop.wait())
        tasks: list[asyncio.Task[Any]] = []
        async with AsyncExitStack() as stack:
            stack.callback(stopped.cancel)
            if self._llm.model is not None:
                await stack.enter_async_context(self._llm.model)
            settings = self.context.settings
            connecting = asyncio.create_task(
                connected(self.context, self.name, lambda: make_producer(settings.kafka))
            )  # 1
            await asyncio.wait([connecting, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                await _cancel([connecting])
                return
            producer = connecting.result()
            stack.push_async_callback(_stop, producer)
            self._announcer = Announcer(self.context, producer, self.name)
            self._window = MessageWindow(
                self.context,
                stage=self.name,
                topic=self._topic,
                decode=partition_of_message,
                producer=producer,
                size=settings.llm.window,
                remedy=REMEDY.format(topic=self._topic),
                on_assigned=self._on_assigned,
                on_revoked=self._on_revoked,
            )
            reading = asyncio.create_task(self._read(), name="interest-read")  # 2
            writing = asyncio.create_task(self._write(), name="interest-write")
            tasks = [reading, writing]
            if self._client is not None:
                tasks.append(asyncio.create_task(self._client.keep_probing(), name="interest-probe"))
            await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            deadline = time.monotonic() + settings.agent.drain_s
            try:
                await self._drain(deadline, reading, writing)  # 3-5
            finally:
                await _cancel(tasks)
                self._in_flight.drop(every=True)
                await self._window.stop(max(0.5, deadline - time.monotonic()))  # 6
            for task in tasks:
                if not task.cancelled() and (error := task.exception()) is not None:
                    raise error

    async def _drain(self, deadline: float, reading: asyncio.Task[None], writing: asyncio.Task[None]) -> None:
        await _cancel([reading])  # 3
        patience = deadline - time.monotonic()
        if self._client is not None:
            self._client.close()
            await self._calls_end(time.monotonic() + 0.6 * patience)  # 4
        self._closing = True  # 5
        self._in_flight.some_ready.set()
        await asyncio.wait([writing], timeout=0.3 * patience)

    async def _calls_end(self, deadline: float) -> None:
        """Until no call is in flight and what came of them is stored, or the deadline."""
        assert self._client is not None
        while time.monotonic() < deadline:
            if self._answers and self._answers.unwritten():
                self._in_flight.some_ready.set()  # wakes the writer, who stores answers too
            elif not self._client.in_flight and not self._in_flight.some_ready.is_set() and self._idle.is_set():
                return
            await asyncio.sleep(0.02)

    # Kafka gives partitions and takes them.

    async def _on_assigned(self, partitions: Collection[int]) -> None:
        self._in_flight.drop()
        if self._client is not None:
            self._client.open()
        await self._retry.storing(
            partial(self._announcer.send_left, self._announced, partitions), "cannot read the outbox"
        )

    async def _on_revoked(self, _partitions: Collection[int]) -> None:
        """Calls in flight may end; what has not been asked is the next worker's, who finds the answers in the store."""
        if self._client is not None:
            self._client.close()
            await self._calls_end(time.monotonic() + self._window.settle_s)
        else:
            while self._window.in_flight:
                await asyncio.sleep(0.02)

    # Reading: messages become entries.

    async def _read(self) -> None:
        await self._window.start()
        while True:
            messages = await self._window.take(AT_ONCE)
            self._in_flight.drop()
            if messages:
                await self._begin(messages)

    async def _begin(self, messages: list[Message[Partition]]) -> None:
        async with self._beginning:
            wanted: dict[Key, list[Message[Partition]]] = {}
            for message in messages:
                wanted.setdefault(key_of(message.value), []).append(message)
            # noted before the store is read: one that is stored and settled meanwhile is not there afterwards
            noted = {key: self._in_flight.task_before(mine[0].value) for key, mine in wanted.items()}
            loaded = await self._retry.store(partial(self._load, list(wanted)), "cannot read partitions")
            absent: list[Message[Partition]] = []
            for key, mine in wanted.items():
                left = [message for message in mine if not message.lost]
                if not left:
                    continue
                if (work := loaded.works.get(key)) is not None:
                    if not self._in_flight.add_messages(left, work):
                        before = self._in_flight.summary_before(work, noted[key])
                        self._in_flight.begin(left, work, before=before)
                elif key in loaded.known:
                    self._in_flight.begin(left, None, loaded.known[key][1])
                elif key in loaded.plain:
                    self._in_flight.begin(left, *loaded.plain[key])
                else:
                    absent += left
            await self._skip_or_reject(absent, forgets=loaded.forgets)

    def _load(self, keys: list[Key]) -> LoadedPartitions:
        loaded = self._loader.load(keys)
        if self._llm.model is None:
            loaded.plain = {
                key: (work, plain(work, self._llm.plan, self._llm.name)) for key, work in loaded.works.items()
            }
            loaded.works = {}
        return loaded

    async def _skip_or_reject(self, messages: list[Message[Partition]], *, forgets: int) -> None:
        """Partitions that the store does not have: of forgotten users, whose traces must not be kept anywhere; or, in
        a store that never forgot anyone, of another store.
        """
        if forgets:
            for message in messages:
                self._skip(message.value.index, [message])
        else:
            reason = "the store has no such partition, and has forgotten nobody"
            await self._window.send_to_dead_letter([(message, reason) for message in messages])

    def _skip(self, index: int, messages: list[Message[Partition]]) -> None:
        self.context.metrics.skipped.labels(self.name).inc(len(messages))
        first = messages[0]
        log.info("user forgotten", stage=self.name, index=index, partition=first.partition, offset=first.offset)
        self._window.acknowledge(messages)

    # Writing: entries become rows and announcements.

    def _texts(self, order: int) -> InterestWriter:
        assert self._answers is not None
        assert self._client is not None
        answers, complete = self._answers, self._client.at(order)

        async def ask(request: Request, *, user_id: str, kind: str, forgets: int | None) -> Reply:
            return await self._retry.storing(
                lambda: answers.ask(request, user_id=user_id, kind=kind, forgets=forgets, complete=complete),
                "cannot look up answers",
            )

        return InterestWriter(ask, self._llm.plan, self._llm.name)

    async def _write(self) -> None:
        """Store and announce what is finished, a batch at a time, until the stage is closing and nothing is left."""
        while True:
            self._idle.set()
            if not self._closing:
                await self._wait_ready()
            if not self._closing:
                await asyncio.sleep(GATHER_S)
            self._idle.clear()
            if not await self._write_batch() and self._closing:
                return

    async def _wait_ready(self) -> None:
        """Until something is finished; a while at most, for answers and the outbox are not to wait for ever."""
        try:
            await asyncio.wait_for(self._in_flight.some_ready.wait(), timeout=5 * GATHER_S)
        except TimeoutError:
            return

    async def _write_batch(self) -> bool:
        """1. One transaction. 2. Announce. 3. Acknowledge. False where there was nothing to do."""
        tasks = self._in_flight.take_ready(AT_ONCE)
        unwritten = self._answers.unwritten() if self._answers else None
        sent = self._sent
        if not tasks and not sent and not unwritten:
            return False
        finished = [task.finished() for task in tasks]
        answers = (self._answers, unwritten) if self._answers and unwritten else None
        began = time.monotonic()
        announcements, stored = await self._retry.store(  # 1
            lambda: save(
                self.context.engine, finished, sent, answers, self._announced, llm=self._llm.model is not None
            ),
            "cannot store interests",
        )
        self.context.metrics.commit.labels(self.name).observe(time.monotonic() - began)
        self._sent = []
        if answers:
            answers[0].written(answers[1])
        await self._announcer.send(announcements)  # 2
        self._sent = announcements
        await self._done(tasks, stored)  # 3
        return True

    async def _done(self, tasks: list[PartitionTask], stored: dict[Key, Interest]) -> None:
        self._in_flight.settle(tasks)
        again: list[Message[Partition]] = []
        for task in tasks:
            interest = stored.get(task.key)
            if interest is None:  # forgotten while the model wrote; the user may have come back since
                again += task.messages
                continue
            if task.work is not None:
                self.context.metrics.interests.labels(interest.summary_outcome).inc()
                if interest.shift:
                    self.context.metrics.shifts.labels(interest.shift_outcome).inc()
            self._window.acknowledge(task.messages)
        if again and not self._closing:  # or they are the next worker's
            await self._begin(again)


async def _stop(producer: AIOKafkaProducer) -> None:
    """Whatever is not sent is in the outbox."""
    try:
        async with asyncio.timeout(STOP_S):
            await producer.stop()
    except TimeoutError:
        return


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
