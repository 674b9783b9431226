"""Hands pieces of a log to Kafka one after the other, and writes the mark of what is acknowledged.

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
from streams.replay.checkpoint import Mark, Marks, Target

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer
    from aiokafka.producer.message_accumulator import BatchBuilder

BEAT_S = 1.0  # between two marks: what is read back after a crash is what was produced in so long
STALL_S = 5.0  # without an acknowledgement: worth telling
STOP_S = 3.0  # for what is in flight when the user interrupts
RETRY_S = 0.5


class GivenUpError(Exception):
    """Asked to stop while the broker does not answer."""


@dataclass(kw_only=True, slots=True)
class Delivery:
    """One run's way to one topic; `mark` and `offsets` are what is known to be acknowledged."""

    marks: Callable[[], Marks]
    target: Target
    mark: Mark
    offsets: dict[int, int]
    producer: AIOKafkaProducer
    stop: asyncio.Event
    warn: Callable[[str], None]
    clock: Callable[[], float]
    acknowledged: Callable[[int, Mark], None]  # told the messages of each piece, and the mark after it
    _beaten: float = field(init=False)
    _flight: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._beaten = self.clock()

    async def send(self, piece: Mapping[int, list[BatchBuilder]], rows: int, digest: str) -> None:
        """Send a piece once the one before is acknowledged; after it the log's first `rows` rows are on the topic."""
        await self.idle()
        after = msgspec.structs.replace(self.mark, rows=rows, digest=digest)
        self._flight = asyncio.create_task(self._fly(piece, after))

    async def idle(self) -> None:
        """Settle, and write the mark if it is time: also when nothing is due, for a silent run counts as dead."""
        await self.settle()
        if self.clock() - self._beaten >= BEAT_S:
            await self.beat()

    async def _fly(self, piece: Mapping[int, list[BatchBuilder]], after: Mark) -> None:
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
                self.acknowledged(sent, self.mark)
                raise error
        self.mark = msgspec.structs.replace(after, beat=self.mark.beat)
        self.acknowledged(sent, self.mark)

    async def settle(self) -> None:
        """Wait for acknowledgements for as long as it takes, and say so; give up soon once asked to stop."""
        if self._flight is None:
            return
        flight, told = self._flight, False
        while not flight.done() and not self.stop.is_set():
            stopped = asyncio.create_task(self.stop.wait())
            await asyncio.wait({flight, stopped}, timeout=STALL_S, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not flight.done() and not self.stop.is_set() and not told:
                told = True
                self.warn(f"no acknowledgement from Kafka for {STALL_S:.0f} s; waiting on, Ctrl-C to give up")
        if not flight.done():
            await asyncio.wait({flight}, timeout=STOP_S)
        if not flight.done():
            flight.cancel()
            raise GivenUpError
        self._flight = None
        flight.result()

    async def beat(self, state: Literal["running", "ended"] = "running") -> None:
        """Write the mark, unless another run has taken the log over in the meantime: that is an error."""
        while True:
            try:
                await self._write(state)
            except Exception as error:
                if not is_retriable(error):
                    raise
                self.warn(f"{describe(error)}; trying again until Kafka answers, Ctrl-C to give up")
            else:
                return
            if await pause(self.stop, RETRY_S):
                raise GivenUpError

    async def _write(self, state: Literal["running", "ended"]) -> None:
        mark = msgspec.structs.replace(self.mark, beat=self.mark.beat + 1, state=state)
        await asyncio.to_thread(self._write_if_ours, mark, dict(self.offsets))
        self.mark = mark
        self._beaten = self.clock()

    def _write_if_ours(self, mark: Mark, offsets: dict[int, int]) -> None:
        with self.marks() as marks:
            if marks.read(self.target)[0].run != mark.run:
                raise KafkaError(
                    f"another run has begun to produce this log to {self.target.topic}; this one stops. Rows of the "
                    "last second may be on the topic twice"
                )
            marks.write(self.target, mark, offsets)


async def pause(stop: asyncio.Event, seconds: float) -> bool:
    """Wait; return whether to stop."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
