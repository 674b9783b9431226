"""Produces a historical log to the topic of behaviours, in event-time order, as if it happened now.

Killed anywhere and run again, every row is on the topic once and each user's are in order. Nothing is stored outside
Kafka: the messages carry their rows' numbers (streams/replay/messages.py), and a checkpoint
(streams/replay/checkpoint.py), written every second, says from where to read them back.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from interest.errors import InputError
from interest.retry import BACKOFF
from streams.files.catalogue import no_usable_row
from streams.files.rejects import RejectWriter
from streams.files.rows import BehaviorLog, Digest, Rows
from streams.files.sort import in_time_order
from streams.kafka.clients import KafkaError, make_producer
from streams.kafka.errors import describe, is_client_error, is_retriable
from streams.kafka.partitioner import Partitioner
from streams.kafka.topics import Topics
from streams.replay.checkpoint import ReplayCheckpoint, ReplayProgress, Target
from streams.replay.delivery import CHECKPOINT_S, STOP_S, Delivery, GivenUpError, pause
from streams.replay.embedded import source_name, source_name_then
from streams.replay.messages import BATCH, ChangedError, Encoded, Sent, batches, encode
from streams.replay.outage import TIMEOUT_S, Outage
from streams.replay.rate import Pacer, Rate
from streams.replay.recover import last_rows
from streams.settings.schema import KafkaSettings
from streams.subscription.start import Positions

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

SETTLE_S = 3.0  # a run whose checkpoint has not moved for so long is dead: three of them
STEP_S = 0.02  # between two pieces of a paced log: 50 requests a second to each partition are plenty


class Produced(msgspec.Struct, frozen=True, kw_only=True):
    """What one run did; `rows` and `rejected` are of the log, as far as it was read."""

    rows: int
    new: int
    rejects: RejectWriter | None
    ended: bool  # False: it was interrupted


class _ProducedRows:
    """Checks the rows that are on the topic already, while they are passed over."""

    def __init__(self, progress: ReplayProgress, sent: dict[int, Sent]) -> None:
        self._progress, self.digest, self._checked = progress, Digest(), not progress.rows
        self._newest = max((one.row for one in sent.values()), default=-1)

    def skip(self, rows: Rows, first: int) -> int:
        """How many of a chunk's rows, which begin at row `first` of the log, the checkpoint knows."""
        known = min(max(self._progress.rows - first, 0), len(rows))
        self.digest.add(rows, 0, known)
        if not self._checked and first + known == self._progress.rows:
            self._checked = True
            if not self.digest.matches(self._progress.digest):
                raise ChangedError(
                    f"of its first {self._progress.rows:,} rows some have changed, or are read by other rules now"
                )
        return known

    def end(self, count: int) -> None:
        """The log has ended with `count` rows."""
        if not self._checked or count <= self._newest:
            raise ChangedError("it has fewer rows than were produced")


@dataclass(kw_only=True)
class LogProducer:
    """One log on its way to one topic. `stop` ends it after the piece in flight.

    `started(rows, done, was_sorted)` is called with the work there is and returns what to call with newly done rows.
    """

    settings: KafkaSettings
    log: BehaviorLog
    rate: Rate = field(default_factory=Rate)
    rejects: RejectWriter | None = None  # none: beside the log
    started: Callable[[int, int, bool], Callable[[int], None]] = lambda _rows, _done, _sorted: lambda _count: None
    warn: Callable[[str], None] = lambda _text: None
    clock: Callable[[], float] = time.monotonic
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    timeout_s: float = TIMEOUT_S  # for which a Kafka that does not answer is waited for
    outage: Outage = field(init=False)
    _run: str = field(default_factory=lambda: secrets.token_hex(8))
    _advance: Callable[[int], None] | None = None
    _shown: int = 0  # rows that the progress has counted
    _new: int = 0  # messages acknowledged

    def __post_init__(self) -> None:
        self.outage = Outage(brokers=self.settings.brokers, timeout_s=self.timeout_s, clock=self.clock)

    async def run(self) -> Produced:
        """Produce what is not on the topic yet; wait while the broker is away.

        Raises KafkaError if it is away for `timeout_s`, if the topic is missing or another run produces the same log,
        InputError for a log that is
        not what it was.
        """
        source = bytes.fromhex(source_name(self.log).removeprefix("log:"))
        failures, before = 0, 0
        while True:
            try:
                return await self._attempt(source)
            except GivenUpError:
                break
            except ChangedError as error:
                raise InputError(
                    f"{self.log.path} is not what it was when it was produced to "
                    f"{Topics(self.settings.prefix).behaviors}: {error}. Rows may be appended if they are no older "
                    "than the last one; for anything else put the old file back, or make the topic again"
                ) from None
            except Exception as error:
                if not is_retriable(error):
                    raise (KafkaError(describe(error)) if is_client_error(error) else error) from error
                if self._new > before:
                    self.outage.over()
                self.outage.failed()
                self.warn(f"{describe(error)}; trying again until Kafka answers, Ctrl-C to give up")
            failures, before = (1 if self._new > before else failures + 1), self._new
            if await pause(self.stop, BACKOFF.delay_s(failures)):
                break
        return Produced(rows=self._shown, new=self._new, rejects=None, ended=False)

    async def _attempt(self, source: bytes) -> Produced:
        """1. See how far earlier runs came; 2. take the log over; 3. read back what came after; 4. go on."""
        checkpoint = partial(ReplayCheckpoint, self.settings, f"{self.settings.prefix}replay-{source.hex()}")
        target, progress, offsets = await self._settled_checkpoint(checkpoint)  # 1
        if not progress.rows:
            await self._refuse_other_rules(target)
        progress = msgspec.structs.replace(progress, run=self._run, beat=progress.beat + 1, state="running")
        offsets, ends = await asyncio.to_thread(_take_over, checkpoint, target, progress, offsets)  # 2
        sent = await last_rows(self.settings, target.topic, source, offsets, ends)  # 3
        producer = make_producer(self.settings, linger_ms=0, max_batch_size=BATCH)
        try:
            await producer.start()
            delivery = Delivery(
                checkpoint=checkpoint,
                target=target,
                progress=progress,
                offsets=offsets,
                producer=producer,
                outage=self.outage,
                stop=self.stop,
                warn=self.warn,
                clock=self.clock,
                acknowledged=self._acknowledged,
            )
            return await self._drive(delivery, source, sent)  # 4
        finally:
            await _close(producer)

    async def _refuse_other_rules(self, target: Target) -> None:
        then = await asyncio.to_thread(source_name_then, self.log)
        if then is None:
            return
        group = f"{self.settings.prefix}replay-{then.removeprefix('log:')}"
        checkpoint = partial(ReplayCheckpoint, self.settings, group)
        rows = (await asyncio.to_thread(_read_checkpoint, checkpoint, target.topic))[1].rows
        if rows:
            raise InputError(
                f"{self.log.path} was produced to {target.topic} up to row {rows:,} by an earlier version, which read "
                "its cells or its times otherwise; make the topic again to produce it from its beginning"
            )

    async def _settled_checkpoint(
        self, checkpoint: Callable[[], ReplayCheckpoint]
    ) -> tuple[Target, ReplayProgress, Positions]:
        """The topic and the progress, once its writer is dead: messages may be on their way till then."""
        topic = Topics(self.settings.prefix).behaviors
        target, progress, offsets = await asyncio.to_thread(_read_checkpoint, checkpoint, topic)
        if progress.state == "running" and progress.run != self._run:
            if await pause(self.stop, SETTLE_S):
                raise GivenUpError
            target, again, offsets = await asyncio.to_thread(_read_checkpoint, checkpoint, topic)
            if again.state == "running" and (again.run, again.beat) != (progress.run, progress.beat):
                raise KafkaError(f"another run is producing {self.log.path.name} to {topic}; stop one of the two")
            progress = again
        return target, progress, offsets

    def _acknowledged(self, messages: int, progress: ReplayProgress) -> None:
        self._new += messages
        if self._advance is not None and progress.rows > self._shown:
            self._advance(progress.rows - self._shown)
            self._shown = progress.rows

    async def _drive(self, delivery: Delivery, source: bytes, sent: dict[int, Sent]) -> Produced:
        """Play the log; whatever ends it, the checkpoint then says what is there, and the files are closed."""
        was_sorted, chunks = await asyncio.to_thread(in_time_order, self.log)
        if self._advance is None:
            self._advance = self.started(self.log.rows, delivery.progress.rows, was_sorted)
            self._shown = delivery.progress.rows
        produced_rows = _ProducedRows(delivery.progress, sent)
        reader = _EncodingReader(chunks, Partitioner(delivery.target.partitions), delivery.progress.rows)
        rejects = self.rejects or RejectWriter(self.log.path)
        try:
            with rejects:
                count = await self._play(delivery, reader, produced_rows, rejects, source, sent)
            if not self.stop.is_set():
                produced_rows.end(count)
        except InputError:
            await delivery.settle()
            await delivery.write_progress("ended")
            raise
        finally:
            await reader.close()
        await delivery.write_progress("ended")
        if not count and not self.stop.is_set():
            raise no_usable_row(self.log.path, rejects)
        return Produced(
            rows=count,
            new=self._new,
            rejects=rejects,
            ended=not self.stop.is_set(),
        )

    async def _play(
        self,
        delivery: Delivery,
        reader: _EncodingReader,
        produced_rows: _ProducedRows,
        rejects: RejectWriter,
        source: bytes,
        sent: dict[int, Sent],
    ) -> int:
        """Read and encode the next chunk while a piece of this one is on its way; return the rows played."""
        pacer, first = Pacer(self.rate, self.clock), 0
        while (chunk := await reader.next()) is not None:
            rows, encoded = chunk
            rejects.add(rows.rejected)
            start = produced_rows.skip(rows, first)
            while start < len(rows):
                count, wait = pacer.due(rows.at, start)
                if count:
                    new = partial(batches, source=source, sent=sent, new=delivery.producer.create_batch)
                    # the message's time is now: with the event's, retention would delete an old log as it arrives
                    piece = await asyncio.to_thread(
                        new, encoded, start, start + count, first, now_ms=int(time.time() * 1000)
                    )
                    produced_rows.digest.add(rows, start, start + count)
                    start += count
                    await delivery.send(piece, first + start, produced_rows.digest.text())
                else:
                    await delivery.idle()
                if self.stop.is_set() or (
                    self.rate != Rate() and await pause(self.stop, min(max(wait, STEP_S), CHECKPOINT_S))
                ):
                    await delivery.settle()
                    return first + start
            first += len(rows)
        await delivery.settle()
        return first


class _EncodingReader:
    """Reads and encodes in a thread, one chunk ahead."""

    def __init__(self, chunks: Iterator[Rows], partitioner: Partitioner, known: int) -> None:
        self._chunks, self._partitioner = chunks, partitioner
        self._known = known  # rows to come that need no encoding: they are on the topic
        self._coming = asyncio.ensure_future(asyncio.to_thread(self._read))

    async def next(self) -> tuple[Rows, Encoded] | None:
        chunk = await self._coming
        if chunk is not None:
            self._coming = asyncio.ensure_future(asyncio.to_thread(self._read))
        return chunk

    def _read(self) -> tuple[Rows, Encoded] | None:
        rows = next(self._chunks, None)
        if rows is None:
            return None
        self._known -= len(rows)
        return rows, (encode(rows, self._partitioner) if self._known < 0 else Encoded([], [], []))

    async def close(self) -> None:
        await asyncio.gather(self._coming, return_exceptions=True)  # it reads the files that are about to be closed
        self._chunks.close()  # type: ignore[attr-defined]  # a generator: its temporary files go


def _read_checkpoint(
    checkpoint: Callable[[], ReplayCheckpoint], topic: str
) -> tuple[Target, ReplayProgress, Positions]:
    with checkpoint() as asked:
        target = asked.target(topic)
        return target, *asked.read(target)


def _take_over(
    checkpoint: Callable[[], ReplayCheckpoint], target: Target, progress: ReplayProgress, offsets: Positions
) -> tuple[Positions, Positions]:
    """Write the checkpoint; return from where to read each partition back, and the ends of them all."""
    with checkpoint() as asked:
        starts = {
            place: max(offsets.get(place, 0), first) for place, first in asked.ends(target, earliest=True).items()
        }
        asked.write(target, progress, starts)
        return starts, asked.ends(target)


async def _close(producer: AIOKafkaProducer) -> None:
    """Stop, but do not wait for a broker that is away."""
    try:
        await asyncio.wait_for(producer.stop(), STOP_S)
    except TimeoutError:
        return
