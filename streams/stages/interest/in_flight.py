"""The partitions that the interest stage has in flight: each is written by tasks of its own, and one user's are handed
on in order.
"""

from __future__ import annotations

import asyncio
import itertools
import traceback
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from interest.types import Interest, Partition
from interest.write.backlog import Work
from interest.write.cascade import GeneratedText
from interest.write.writer import InterestWriter
from streams.stages.consumer.message import Message
from streams.stages.interest.rows import FinishedInterest, Key, key_of
from streams.stages.retry import RetryPolicy

R = TypeVar("R")
log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class PartitionTask:
    """One partition in flight."""

    key: Key
    order: int  # its place in the line
    messages: list[Message[Partition]]  # that announced it: more than one after a crash of the ingest stage
    work: Work | None  # what it is written of; None: it was stored before
    follows: PartitionTask | None  # the user's partition that came before it, while that is in flight
    interest: Interest | None = None
    summary: asyncio.Task[GeneratedText] | None = None
    running: asyncio.Task[None] | None = None
    handed_on: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def lost(self) -> bool:
        return all(message.lost for message in self.messages)

    def finished(self) -> FinishedInterest:
        assert self.interest is not None
        first = self.messages[0]
        return FinishedInterest(self.interest, self.work, place=(first.partition, first.offset))


class InFlight:
    """Begins tasks and hands on those that are finished.

    Args:
        texts: what writes a partition, by its place in the line; none where no LLM is asked.
    """

    def __init__(self, patience: RetryPolicy, texts: Callable[[int], InterestWriter] | None) -> None:
        self._retry, self._texts = patience, texts
        self._tasks: dict[Key, PartitionTask] = {}
        self._replaced: list[PartitionTask] = []  # others with the same key, of the user's before they were forgotten
        self._newest: dict[str, PartitionTask] = {}  # of each user with tasks
        self._ready: list[PartitionTask] = []
        self._order = itertools.count()
        self.some_ready = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks) + len(self._replaced)

    def add_messages(self, messages: list[Message[Partition]], work: Work) -> bool:
        """Whether their partition is in flight already; then they are done with when that is."""
        task = self._tasks.get(key_of(work.partition))
        if task is None or task.lost or task.work is None or task.work.content != work.content:
            return False
        task.messages += messages
        return True

    def task_before(self, partition: Partition) -> PartitionTask | None:
        """The task of the partition that this one follows, while that is in flight."""
        if partition.before is None:
            return None
        return self._tasks.get((partition.user_id, partition.generation, partition.before))

    def summary_before(self, work: Work, noted: PartitionTask | None) -> asyncio.Future[GeneratedText] | None:
        """The summary of the partition that this one follows, while that is being written or was when it was `noted`;
        not that of another one, of the user's before they were forgotten.
        """
        for task in (self.task_before(work.partition), noted):
            if task is not None and task.work is not None and task.work.content == work.content_before:
                return task.summary
        return None

    def begin(
        self,
        messages: list[Message[Partition]],
        work: Work | None,
        interest: Interest | None = None,
        before: asyncio.Future[GeneratedText] | None = None,
    ) -> None:
        """Begin to write a partition; or, where its interest is there, only to hand it on in its turn.

        `work`: none where the interest is stored already.
        """
        key = key_of(messages[0].value)
        task = PartitionTask(key, next(self._order), messages, work, self._newest.get(key[0]), interest)
        if interest is not None:
            running = self._hand_on(task)
        else:
            assert work is not None
            running = self._write(task, work, before)
        if key in self._tasks:
            self._replaced.append(self._tasks[key])
        self._tasks[key] = self._newest[key[0]] = task
        task.running = asyncio.create_task(running, name=f"{key[0]}#{key[2]}")

    def take_ready(self, most: int) -> list[PartitionTask]:
        """The finished ones, in the order in which they are to be announced."""
        taken, self._ready = self._ready[:most], self._ready[most:]
        if not self._ready:
            self.some_ready.clear()
        return [task for task in taken if not task.lost]

    def settle(self, tasks: Iterable[PartitionTask]) -> None:
        """They are stored, announced and acknowledged."""
        for task in tasks:
            if self._tasks.get(task.key) is task:
                del self._tasks[task.key]
            elif task in self._replaced:
                self._replaced.remove(task)
            if self._newest.get(task.key[0]) is task:
                del self._newest[task.key[0]]

    def drop(self, *, every: bool = False) -> None:
        """Give up the tasks whose Kafka partition is another worker's now; or all."""
        dropped = [task for task in (*self._tasks.values(), *self._replaced) if every or task.lost]
        for task in dropped:
            for one in (task.summary, task.running):
                if one is not None:
                    one.cancel()
            task.follows = None
            task.handed_on.set()
        self.settle(dropped)
        gone = set(map(id, dropped))
        self._ready = [task for task in self._ready if id(task) not in gone]

    async def _write(self, task: PartitionTask, work: Work, before: asyncio.Future[GeneratedText] | None) -> None:
        assert self._texts is not None
        texts = self._texts(task.order)
        task.summary = asyncio.create_task(self._until_done(task, lambda: texts.summary(work, before)))
        summary = task.summary
        task.interest = await self._until_done(task, lambda: texts.interest(work, summary, before))
        await self._hand_on(task)

    async def _hand_on(self, task: PartitionTask) -> None:
        if task.follows is not None:
            await task.follows.handed_on.wait()
            task.follows = None  # or the whole history of a busy user would hang on its newest partition
        task.handed_on.set()
        self._ready.append(task)
        self.some_ready.set()

    async def _until_done(self, task: PartitionTask, make: Callable[[], Awaitable[R]]) -> R:
        """An error that nobody foresaw holds this partition, loud as lag, and no other."""
        first = task.messages[0]

        def any_error(error: Exception) -> bool:
            log.warning(
                "a partition cannot be written",
                user=task.key[0],
                index=task.key[2],
                partition=first.partition,
                offset=first.offset,
                where="".join(traceback.format_exception(error, limit=-3)),  # not its variables: they are many
            )
            return True

        what = f"cannot write the interest of {task.key[0]}#{task.key[2]} (offset {first.offset})"
        return await self._retry.until_done("interest", make, what, any_error)
