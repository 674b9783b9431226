"""Delivers pieces of a log to Kafka one after the other, and checkpoints what is acknowledged.

One piece is on its way at a time, and of each partition one batch: no row can be acknowledged while one before it is
lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec

from streams.kafka.clients import KafkaError
from streams.kafka.errors import describe, is_retriable
from streams.replay.checkpoint import ReplayCheckpoint, ReplayProgress, Target
from streams.replay.outage import Outage

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer
    from aiokafka.producer.message_accumulator import BatchBuilder

CHECKPOINT_S = 1.0  # between two checkpoints: what is read back after a crash is what was produced in so long
STALL_S = 5.0  # without an acknowledgement: worth telling
STOP_S = 3.0  # for what is in flight when the user interrupts
RETRY_S = 0.5


class GivenUpError(Exception):
    """Asked to stop while the broker does not answer."""


@dataclass(kw_only=True, slots=True)
class Delivery:
    """One run's way to one topic; `progress` and `offsets` are what is known to be acknowledged."""

    checkpoint: Callable[[], ReplayCheckpoint]
    target: Target
    progress: ReplayProgress
    offsets: dict[int, int]
    producer: AIOKafkaProducer
    stop: asyncio.Event
    outage: Outage
    warn: Callable[[str], None]
    clock: Callable[[], float]
    acknowledged: Callable[
        [int, ReplayProgress], None
    ]  # called with the messages of each piece and the progress after it
    _written_at: float = field(init=False)
    _in_flight: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._written_at = self.clock()

    async def send(self, piece: Mapping[int, list[BatchBuilder]], rows: int, digest: str) -> None:
        """Send a piece once the one before is acknowledged; after it the log's first `rows` rows are on the topic."""
        await self.idle()
        after = msgspec.structs.replace(self.progress, rows=rows, digest=digest)
        self._in_flight = asyncio.create_task(self._send_batches(piece, after))

    async def idle(self) -> None:
        """Settle, and write the checkpoint if it is time: also when nothing is due, for a silent run counts as dead."""
        await self.settle()
        if self.clock() - self._written_at >= CHECKPOINT_S:
            await self.write_progress()

    async def _send_batches(self, piece: Mapping[int, list[BatchBuilder]], after: ReplayProgress) -> None:
        sent = 0

        async def lane(partition: int, batches: list[BatchBuilder]) -> None:
            nonlocal sent
            for batch in batches:
                count = batch.record_count()
                placed = await (await self.producer.send_batch(batch, self.target.topic, partition=partition))
                sent += count
                if placed.offset >= 0:  # -1: a repeat, acknowledged long ago
                    self.offsets[partition] = placed.offset + count

        ends = await asyncio.gather(*(lane(*one) for one in piece.items()), return_exceptions=True)
        for error in ends:
            if error is not None:
                self.acknowledged(sent, self.progress)
                raise error
        self.progress = msgspec.structs.replace(after, beat=self.progress.beat)
        self.acknowledged(sent, self.progress)

    async def settle(self) -> None:
        """Wait for acknowledgements, and say so; give up soon once asked to stop. Raises KafkaError when Kafka has been
        away for too long.
        """
        if self._in_flight is None:
            return
        flight, warned = self._in_flight, False
        while not flight.done() and not self.stop.is_set():
            stopped = asyncio.create_task(self.stop.wait())
            await asyncio.wait({flight, stopped}, timeout=STALL_S, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not flight.done() and not self.stop.is_set():
                try:
                    self.outage.failed()
                except KafkaError:
                    flight.cancel()
                    raise
            if not flight.done() and not self.stop.is_set() and not warned:
                warned = True
                self.warn(f"no acknowledgement from Kafka for {STALL_S:.0f} s; still waiting, Ctrl-C to give up")
        if not flight.done():
            await asyncio.wait({flight}, timeout=STOP_S)
        if not flight.done():
            flight.cancel()
            raise GivenUpError
        self._in_flight = None
        flight.result()
        self.outage.over()

    async def write_progress(self, state: Literal["running", "ended"] = "running") -> None:
        """Write the checkpoint, unless another run has taken the log over in the meantime: that is an error."""
        while True:
            try:
                await self._write(state)
            except Exception as error:
                if not is_retriable(error):
                    raise
                self.outage.failed()
                self.warn(f"{describe(error)}; trying again until Kafka answers, Ctrl-C to give up")
            else:
                self.outage.over()
                return
            if await pause(self.stop, RETRY_S):
                raise GivenUpError

    async def _write(self, state: Literal["running", "ended"]) -> None:
        progress = msgspec.structs.replace(self.progress, beat=self.progress.beat + 1, state=state)
        await asyncio.to_thread(self._write_if_ours, progress, dict(self.offsets))
        self.progress = progress
        self._written_at = self.clock()

    def _write_if_ours(self, progress: ReplayProgress, offsets: dict[int, int]) -> None:
        with self.checkpoint() as checkpoint:
            if checkpoint.read(self.target)[0].run != progress.run:
                raise KafkaError(
                    f"another run has begun to produce this log to {self.target.topic}; this one stops. Rows of the "
                    "last second may be on the topic twice"
                )
            checkpoint.write(self.target, progress, offsets)


async def pause(stop: asyncio.Event, seconds: float) -> bool:
    """Wait; return whether to stop."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
