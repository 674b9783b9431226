"""Produces a historical log to the topic of behaviours, in event-time order, as if it happened now.

Killed anywhere and run again, every row is on the topic once and each user's are in order. Nothing is stored outside
Kafka: the messages carry their rows' numbers (streams/encode.py), and a mark (streams/mark.py), written every second,
says from where to read them back. One piece of rows is in flight at a time while the next one is read and encoded: no
row can be acknowledged while one before it is lost.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from interest.errors import InputError
from streams.encode import BATCH, ChangedError, Encoded, Sent, batches, encode
from streams.kafka import KafkaError, Topics, make_producer
from streams.mark import Mark, Marks, Target
from streams.order import in_order
from streams.pace import Pacer, Rate
from streams.partitioner import Partitioner
from streams.passing import passes, said
from streams.replay import Rejects, source_name
from streams.rows import BehaviorLog, Digest, Rows
from streams.settings import KafkaSettings
from streams.tail import last_rows

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer
    from aiokafka.producer.message_accumulator import BatchBuilder

BEAT_S = 1.0  # between two marks: what is read back after a crash is what was produced in so long
SETTLE_S = 3.0  # a run whose mark has not moved for so long is dead: three beats
STALL_S = 5.0  # without an acknowledgement: worth telling
STEP_S = 0.02  # between two pieces of a paced log: 50 requests a second to each partition are plenty
BACKOFF_S, BACKOFF_MAX_S = 0.5, 10.0
STOP_S = 3.0  # for what is in flight when the user interrupts


class Produced(msgspec.Struct, frozen=True, kw_only=True):
    """What one run did; `rows` and `rejected` are of the log, as far as it was read."""

    rows: int
    new: int
    rejected: int
    rejected_file: Path | None
    was_sorted: bool
    ended: bool  # False: it was interrupted


class _Interrupted(Exception):
    """Asked to stop while the broker does not answer."""


@dataclass(kw_only=True)
class Producing:
    """One log on its way to one topic. `stop` ends it after the piece in flight."""

    settings: KafkaSettings
    log: BehaviorLog
    rate: Rate = field(default_factory=Rate)
    strict: bool = False
    started: Callable[[int, int, bool], Callable[[int], None]] = lambda _rows, _done, _sorted: lambda _count: None
    warn: Callable[[str], None] = lambda _text: None
    clock: Callable[[], float] = time.monotonic
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    _run: str = field(default_factory=lambda: secrets.token_hex(8))
    _advance: Callable[[int], None] | None = None
    _shown: int = 0  # rows that the progress has counted
    _new: int = 0

    async def run(self) -> Produced:
        """Produce what is not on the topic yet; wait as long as it takes while the broker is away.

        Raises KafkaError if the topic is missing or another run produces the same log, InputError for a log that is
        not what it was.
        """
        self._source = bytes.fromhex(source_name(self.log).removeprefix("log:"))
        self._topic = Topics(self.settings.prefix).behaviors
        wait = BACKOFF_S
        while True:
            before = self._new
            try:
                return await self._attempt()
            except Exception as error:
                if not passes(error):
                    raise
                self.warn(f"{said(error)}; trying again until Kafka answers, Ctrl-C to give up")
            wait = BACKOFF_S if self._new > before else min(wait * 2, BACKOFF_MAX_S)
            if await self._pause(wait):
                return Produced(
                    rows=0, new=self._new, rejected=0, rejected_file=None, was_sorted=True, ended=False
                )

    async def _attempt(self) -> Produced:
        """1. see how far earlier runs came; 2. take the log over; 3. read back what came after the mark; 4. go on."""
        group = f"{self.settings.prefix}replay-{self._source.hex()}"
        async with AsyncExitStack() as stack:
            marks = await asyncio.to_thread(Marks, self.settings, group)
            stack.push_async_callback(asyncio.to_thread, marks.close)
            target = await asyncio.to_thread(marks.target, self._topic)
            mark, offsets = await self._settled(marks, target)
            firsts = await asyncio.to_thread(partial(marks.ends, target, earliest=True))
            offsets = {place: max(offsets.get(place, 0), first) for place, first in firsts.items()}
            mark = msgspec.structs.replace(mark, run=self._run, beat=mark.beat + 1, state="running")
            await asyncio.to_thread(marks.write, target, mark, offsets)
            ends = await asyncio.to_thread(marks.ends, target)
            sent = await last_rows(self.settings, self._topic, self._source, offsets, ends)
            self._marks, self._target, self._mark, self._offsets = marks, target, mark, offsets
            self._sent, self._beaten = sent, self.clock()
            producer = make_producer(self.settings, linger_ms=0, max_batch_size=BATCH)
            await producer.start()
            stack.push_async_callback(_close, producer)
            return await self._drive(producer)

    async def _settled(self, marks: Marks, target: Target) -> tuple[Mark, dict[int, int]]:
        """The mark, once its writer is known to be dead: messages of its own may still be on their way till then."""
        mark, offsets = await asyncio.to_thread(marks.read, target)
        if mark.state == "running" and mark.run != self._run:
            await self._pause(SETTLE_S)
            again, offsets = await asyncio.to_thread(marks.read, target)
            if (again.run, again.beat) != (mark.run, mark.beat) and again.state == "running":
                raise KafkaError(f"{self.log.path.name} is being produced to {target.topic} by another run; stop that")
            mark = again
        return mark, offsets

    async def _drive(self, producer: AIOKafkaProducer) -> Produced:
        """Read and encode the next chunk while a piece of this one is on its way."""
        was_sorted, chunks = await asyncio.to_thread(in_order, self.log)
        done = self._mark.rows
        if self._advance is None:
            self._advance = self.started(self.log.rows, done, was_sorted)
            self._shown = done
        pacer, digest, checked, first = Pacer(self.rate, self.clock), Digest(), not done, 0
        partitioner = Partitioner(self._target.partitions)
        flight = asyncio.ensure_future(_nothing())
        read = partial(_next, chunks, partitioner)
        coming = asyncio.ensure_future(asyncio.to_thread(read))
        try:
            with Rejects(self.log.path, strict=self.strict) as rejects:
                while (chunk := await coming) is not None and not self.stop.is_set():
                    coming = asyncio.ensure_future(asyncio.to_thread(read))
                    rows, encoded = chunk
                    rejects.add(rows.rejected)
                    start = min(max(done - first, 0), len(rows))
                    digest.add(rows, 0, start)
                    if not checked and first + start == done:
                        checked = True
                        if digest.text() != self._mark.digest:
                            raise ChangedError(f"of its first {done:,} rows some have changed")
                    while start < len(rows) and not self.stop.is_set():
                        if self.clock() - self._beaten >= BEAT_S:
                            await self._patiently(flight)
                            await self._beat()
                        count, wait = pacer.due(rows.at, start)
                        if not count:
                            await self._pause(min(max(wait, STEP_S), BEAT_S))
                            continue
                        stop = start + count
                        piece = await asyncio.to_thread(self._batches, encoded, start, stop, first, producer)
                        digest.add(rows, start, stop)
                        await self._patiently(flight)
                        after = msgspec.structs.replace(self._mark, rows=first + stop, digest=digest.text())
                        flight = asyncio.ensure_future(self._send(producer, piece, after))
                        start = stop
                        if self.rate != Rate():
                            await self._pause(STEP_S)
                    first += len(rows)
                await self._patiently(flight)
            ended = not self.stop.is_set()
            if ended and not (checked and first > max((one.row for one in self._sent.values()), default=-1)):
                raise ChangedError("it has fewer rows than were produced")
            await self._beat(state="ended")
        except ChangedError as error:
            await self._beat(state="ended")
            raise self._changed(error) from None
        except _Interrupted:
            ended = False
        finally:
            await asyncio.gather(coming, return_exceptions=True)  # it reads the files that are about to be closed
            chunks.close()  # type: ignore[attr-defined]  # a generator: its temporary files go
        return Produced(
            rows=first,
            new=self._new,
            rejected=rejects.count,
            rejected_file=rejects.path if rejects.count else None,
            was_sorted=was_sorted,
            ended=ended,
        )

    def _batches(
        self, encoded: Encoded, start: int, stop: int, first: int, producer: AIOKafkaProducer
    ) -> dict[int, list[BatchBuilder]]:
        # the message's time is now: with the event's, retention would delete an old log as it arrives
        return batches(
            encoded,
            start,
            stop,
            first,
            source=self._source,
            sent=self._sent,
            now_ms=int(time.time() * 1000),
            new=producer.create_batch,
        )

    async def _send(self, producer: AIOKafkaProducer, piece: dict[int, list[BatchBuilder]], after: Mark) -> None:
        """Send a piece; the mark stands after it once all of it is acknowledged.

        A partition's batches go one after the other: were two on their way, the second could arrive without the first.
        """

        async def lane(partition: int, lane_batches: list[BatchBuilder]) -> None:
            for batch in lane_batches:
                count = batch.record_count()
                placed = await (await producer.send_batch(batch, self._topic, partition=partition))
                self._new += count
                if placed.offset >= 0:  # -1: a repeat, acknowledged long ago
                    self._offsets[partition] = placed.offset + count

        done = await asyncio.gather(*(lane(*one) for one in piece.items()), return_exceptions=True)
        for error in done:
            if error is not None:
                raise error
        self._mark = after
        if self._advance is not None and after.rows > self._shown:
            self._advance(after.rows - self._shown)
            self._shown = after.rows

    async def _patiently(self, work: Awaitable[None]) -> None:
        """Wait for acknowledgements for as long as it takes, and say so; give up soon once asked to stop."""
        task, told = asyncio.ensure_future(work), False
        while not task.done():
            patience = STOP_S if self.stop.is_set() else STALL_S
            stopped = asyncio.ensure_future(self.stop.wait())
            try:
                waited_for = {task} if self.stop.is_set() else {task, stopped}
                await asyncio.wait(waited_for, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopped.cancel()
            if not task.done() and self.stop.is_set() and patience == STOP_S:
                task.cancel()
                raise _Interrupted
            if not task.done() and not self.stop.is_set() and not told:
                told = True
                self.warn(f"no acknowledgement from Kafka for {STALL_S:.0f} s; trying on, Ctrl-C to give up")
        task.result()

    async def _beat(self, state: Any = "running") -> None:
        """Write the mark, unless another run has taken the log over in the meantime."""
        while True:
            try:
                found, _ = await asyncio.to_thread(self._marks.read, self._target)
                if found.run != self._run:
                    raise KafkaError(
                        f"another run has begun to produce {self.log.path.name} to {self._topic}; this one stops. "
                        "If both go on, rows of the last second may be there twice"
                    )
                self._mark = msgspec.structs.replace(self._mark, beat=self._mark.beat + 1, state=state)
                await asyncio.to_thread(self._marks.write, self._target, self._mark, self._offsets)
            except Exception as error:
                if not passes(error):
                    raise
                self.warn(f"{said(error)}; trying again until Kafka answers, Ctrl-C to give up")
                if self.stop.is_set() or await self._pause(BACKOFF_S):
                    raise _Interrupted from None
                continue
            self._beaten = self.clock()
            return

    async def _pause(self, seconds: float) -> bool:
        """Wait; return whether to stop."""
        try:
            await asyncio.wait_for(self.stop.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _changed(self, why: ChangedError) -> InputError:
        return InputError(
            f"{self.log.path} is not what it was when it was produced to {self._topic}: {why}. Rows may be appended if "
            "they are no older than the last one; for anything else put the old file back, or make the topic again"
        )


def _next(chunks: Iterator[Rows], partitioner: Partitioner) -> tuple[Rows, Encoded] | None:
    rows = next(chunks, None)
    return None if rows is None else (rows, encode(rows, partitioner))


async def _nothing() -> None:
    return None


async def _close(producer: AIOKafkaProducer) -> None:
    """Stop, but do not wait for a broker that is away."""
    try:
        await asyncio.wait_for(producer.stop(), STOP_S)
    except TimeoutError:
        return
