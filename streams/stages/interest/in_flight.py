"""The partitions that the interest stage has in hand: each is written by tasks of its own, and one user's are handed on
in order.
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
from streams.stages.interest.rows import Finished, Key, key_of
from streams.stages.retry import BACKOFF_MAX_S, BACKOFF_S, Patience

R = TypeVar("R")
log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Entry:
    """One partition in hand."""

    key: Key
    order: int  # its place in the line
    messages: list[Message[Partition]]  # that announced it: more than one after a crash of the ingest stage
    follows: Entry | None  # the user's partition that came before it, while that is in hand
    known: bool = False  # it was stored before
    interest: Interest | None = None
    summary: asyncio.Task[GeneratedText] | None = None
    task: asyncio.Task[None] | None = None
    handed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def lost(self) -> bool:
        return all(message.lost for message in self.messages)

    def finished(self) -> Finished:
        assert self.interest is not None
        first = self.messages[0]
        return Finished(self.interest, known=self.known, place=(first.partition, first.offset))


class InHand:
    """Begins entries and hands on those that are finished.

    Args:
        texts: what writes an entry, by its place in the line; none where no LLM is asked.
    """

    def __init__(self, patience: Patience, texts: Callable[[int], InterestWriter] | None) -> None:
        self._patience, self._texts = patience, texts
        self._entries: dict[Key, Entry] = {}
        self._newest: dict[str, Entry] = {}  # of each user with entries
        self._ready: list[Entry] = []
        self._order = itertools.count()
        self.some_ready = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def add_message(self, message: Message[Partition]) -> bool:
        """Whether its partition is in hand already; then it is done with when that is."""
        entry = self._entries.get(key_of(message.value))
        if entry is None or entry.lost:
            return False
        entry.messages.append(message)
        return True

    def summary_before(self, key: Key) -> asyncio.Future[GeneratedText] | None:
        """The summary of the user's partition before, while that is being written."""
        user, generation, index = key
        entry = self._entries.get((user, generation, index - 1))
        return entry.summary if entry is not None else None

    def begin(
        self,
        messages: list[Message[Partition]],
        found: Work | Interest,
        before: asyncio.Future[GeneratedText] | None,
        *,
        known: bool = True,
    ) -> None:
        """Begin to write a partition; or, where its interest is there, only to hand it on in its turn.

        `known`: the interest is stored already.
        """
        key = key_of(messages[0].value)
        entry = Entry(key, next(self._order), messages, follows=self._newest.get(key[0]))
        if isinstance(found, Interest):
            entry.interest, entry.known = found, known
            work = self._hand_on(entry)
        else:
            work = self._write(entry, found, before)
        self._entries[key] = self._newest[key[0]] = entry
        name = f"{key[0]}#{key[2]}"
        entry.task = asyncio.create_task(work, name=name)

    def take_ready(self, most: int) -> list[Entry]:
        """The finished ones, in the order in which they are to be announced."""
        taken, self._ready = self._ready[:most], self._ready[most:]
        if not self._ready:
            self.some_ready.clear()
        return [entry for entry in taken if not entry.lost]

    def settle(self, entries: Iterable[Entry]) -> None:
        """They are stored, announced and acknowledged."""
        for entry in entries:
            if self._entries.get(entry.key) is entry:
                del self._entries[entry.key]
            if self._newest.get(entry.key[0]) is entry:
                del self._newest[entry.key[0]]

    def drop(self, *, every: bool = False) -> None:
        """Give up the entries whose Kafka partition is another worker's now; or all."""
        dropped = [entry for entry in self._entries.values() if every or entry.lost]
        for entry in dropped:
            for task in (entry.summary, entry.task):
                if task is not None:
                    task.cancel()
            entry.follows = None
            entry.handed.set()
        self.settle(dropped)
        gone = set(map(id, dropped))
        self._ready = [entry for entry in self._ready if id(entry) not in gone]

    async def _write(self, entry: Entry, work: Work, before: asyncio.Future[GeneratedText] | None) -> None:
        assert self._texts is not None
        texts = self._texts(entry.order)
        entry.summary = asyncio.create_task(self._until_done(entry, lambda: texts.summary(work, before)))
        summary = entry.summary
        entry.interest = await self._until_done(entry, lambda: texts.interest(work, summary, before))
        await self._hand_on(entry)

    async def _hand_on(self, entry: Entry) -> None:
        if entry.follows is not None:
            await entry.follows.handed.wait()
            entry.follows = None  # or the whole history of a busy user would hang on its newest partition
        entry.handed.set()
        self._ready.append(entry)
        self.some_ready.set()

    async def _until_done(self, entry: Entry, make: Callable[[], Awaitable[R]]) -> R:
        """An error that nobody foresaw holds this partition, loud as lag, and no other."""
        wait = BACKOFF_S
        while True:
            try:
                result = await make()
            except Exception as error:
                first = entry.messages[0]
                log.warning(
                    "a partition cannot be written",
                    user=entry.key[0],
                    index=entry.key[2],
                    partition=first.partition,
                    offset=first.offset,
                    where="".join(traceback.format_exception(error, limit=-3)),  # not its variables: they are many
                )
                what = f"cannot write the interest of {entry.key[0]}#{entry.key[2]} (offset {first.offset})"
                await self._patience.failed("interest", what, error, wait)
                wait = min(wait * 2, BACKOFF_MAX_S)
            else:
                if wait > BACKOFF_S:
                    self._patience.well("interest")
                return result
