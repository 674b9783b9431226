"""The messages of one topic that a stage has in flight: at most so many at once, acknowledged in any order.

On top of the consumer, for the stages whose work on one message takes long (interest, fusion).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from streams.stages.consumer.assignment import Assignment, KafkaPartition
from streams.stages.consumer.consumer import TopicConsumer
from streams.stages.consumer.message import Message, Refused, decoded
from streams.stages.consumer.offsets_in_group import OffsetsInGroup, TrackedOffsets
from streams.stages.stage import Context

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

MAX_AHEAD = 10_000  # messages read beyond one that does not finish: bounds what a crash repeats

T = TypeVar("T")


async def _nothing(_partitions: Collection[int]) -> None:
    return


class MessageWindow(Generic[T]):
    """The messages of one topic for one stage. Call `start`, then `take` and `acknowledge`, then `stop`.

    Args:
        stage: names the group, and the stage in metrics and health.
        decode: the value of (key, value); ValueError and msgspec.DecodeError mean a dead letter with their text.
        producer: started; sends the dead letters.
        size: messages in flight at once, at most.
        remedy: what to do when messages are gone, as a clause; see `offsets.resume_at`.
        on_assigned: awaited with the Kafka partitions this worker was given, before any message of theirs is handed
            out.
        on_revoked: awaited when partitions are about to go to another worker: finish what is quickly finished. Without
            it everything in flight is waited for. Either way at most `settle_s`; what is in flight then is `lost`.
    """

    def __init__(
        self,
        context: Context,
        *,
        stage: str,
        topic: str,
        decode: Callable[[bytes | None, bytes | None], T],
        producer: AIOKafkaProducer,
        size: int,
        remedy: str,
        on_assigned: Callable[[Collection[int]], Awaitable[None]] = _nothing,
        on_revoked: Callable[[Collection[int]], Awaitable[None]] | None = None,
    ) -> None:
        self._context, self._stage, self._topic, self._decode, self._size = context, stage, topic, decode, size
        self._room = asyncio.Event()  # set when a message is not in flight any more
        self._turn = 0
        revoked = on_revoked or self._empty

        async def assigning(places: Collection[KafkaPartition]) -> None:
            await on_assigned([place.partition for place in places])

        async def revoking(places: Collection[KafkaPartition]) -> None:
            await revoked([place.partition for place in places])

        self.consumer = TopicConsumer(
            context,
            stage=stage,
            topics=[topic],
            offsets=OffsetsInGroup(context, stage, topic, remedy),
            producer=producer,
            on_assigned=assigning,
            on_revoked=revoking,
        )
        self.settle_s = self.consumer.settle_s
        self.start, self.stop = self.consumer.start, self.consumer.stop

    @property
    def in_flight(self) -> int:
        assignment = self.consumer.assignment
        return len(assignment.offsets.in_flight) if assignment is not None else 0

    @property
    def settled(self) -> bool:
        """Has been given its partitions (or none) at least once."""
        return self.consumer.settled

    @property
    def partitions(self) -> list[int]:
        """The Kafka partitions that this worker reads now."""
        assignment = self.consumer.assignment
        return [place.partition for place in assignment.partitions] if assignment is not None else []

    async def take(self, most: int | None = None, timeout_s: float = 0.2) -> list[Message[T]]:
        """The next messages, at most so many and at most what the window has room for; maybe none. In each Kafka
        partition they come in order, and partitions take turns.

        Undecodable ones are in the topic of dead letters before this returns. May be cancelled, to stop.

        Raises:
            RefusedError: going on would pass over messages; the text names the remedy.
        """
        assignment = self.consumer.assignment or await self.consumer.resume()
        room = min(self._size - self.in_flight, most or self._size)
        if assignment is None or not assignment.is_open() or not assignment.partitions or room <= 0:
            await self._wait_for_room(timeout_s)
            return []
        taken, refused = await self._fetch(assignment, room, timeout_s)
        await self.send_to_dead_letter(refused)
        return [message for message in taken if not message.lost]

    def acknowledge(self, messages: Iterable[Message[Any]]) -> None:
        """Their effect is stored (and announced): they are not needed any more."""
        assignment, now = self.consumer.assignment, time.time()
        if assignment is None:
            return
        count = 0
        for message in messages:
            key = (message.partition, message.offset)
            if assignment.offsets.in_flight.get(key) is not message:
                continue
            del assignment.offsets.in_flight[key]
            assignment.offsets.trackers[KafkaPartition(self._topic, message.partition)].acknowledge(message.offset)
            age_s = now - message.record.timestamp / 1000
            self._context.metrics.latency.labels(self._stage).observe(max(0.0, age_s))
            count += 1
        if count:
            self._context.metrics.messages.labels(self._stage, self._topic).inc(count)
            self._room.set()

    async def send_to_dead_letter(self, refused: Collection[tuple[Message[Any], str]]) -> None:
        """Messages that can never be used, with the reasons: acknowledged once the topic of dead letters has them."""
        letters: list[Refused] = [(message.record, reason) for message, reason in refused if not message.lost]
        if letters:
            await self.consumer.dead_letters.send(letters)
            self.acknowledge(message for message, _ in refused)

    async def _empty(self, _partitions: Collection[int]) -> None:
        while self.in_flight:
            await self._wait_for_room(self.settle_s)

    async def _wait_for_room(self, timeout_s: float) -> None:
        self._room.clear()
        try:
            await asyncio.wait_for(self._room.wait(), timeout_s)
        except TimeoutError:
            return

    async def _fetch(
        self, assignment: Assignment[TrackedOffsets], room: int, timeout_s: float
    ) -> tuple[list[Message[T]], list[tuple[Message[Any], str]]]:
        """Partitions in turn: first up to a fair share of the window each, then whatever there is."""
        taken: list[Message[T]] = []
        refused: list[tuple[Message[Any], str]] = []
        trackers = assignment.offsets.trackers
        readable = [place for place in assignment.partitions if trackers[place].ahead < MAX_AHEAD]
        if not readable:
            await self._wait_for_room(timeout_s)
            return taken, refused
        self._turn += 1
        turn = self._turn % len(readable)
        order = readable[turn:] + readable[:turn]
        share = max(1, self._size // len(order))
        for place, quota in itertools.chain(((one, share) for one in order), ((one, self._size) for one in order)):
            most = min(room - len(taken) - len(refused), quota - len(trackers[place]))
            if most > 0 and assignment.is_open():
                await self._poll(assignment, [place], 0.0, most, taken, refused)
        if not taken and not refused:
            await self._poll(assignment, order, timeout_s, min(room, share), taken, refused)
        return taken, refused

    async def _poll(
        self,
        assignment: Assignment[TrackedOffsets],
        places: list[KafkaPartition],
        timeout_s: float,
        most: int,
        taken: list[Message[T]],
        refused: list[tuple[Message[Any], str]],
    ) -> None:
        """Take what is there in flight. Nothing may be awaited between the poll's return and the end: the low-water
        mark must never be computed from a position whose messages are not in flight yet."""
        found = await self.consumer.poll(timeout_s, most, places)
        if not assignment.is_open():
            return
        offsets = assignment.offsets
        for place, records in found.items():
            for record in records:
                if not offsets.trackers[place].take(record.offset):
                    continue  # a worker before this one was done with it
                message, reason = decoded(record, self._decode, assignment)
                offsets.in_flight[record.partition, record.offset] = message
                if reason is None:
                    taken.append(message)
                else:
                    refused.append((message, reason))
        for place in places:  # over control records
            offsets.trackers[place].skip_to(await self.consumer.position(place))
