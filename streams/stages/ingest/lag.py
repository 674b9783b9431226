"""How far a stage is behind, asked of the broker beside the work: it stays true while nothing is read."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from streams.stages.ingest.batch import KafkaPartition
from streams.stages.stage import Context

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

ASK_S = 1.0  # between two questions for the ends
ANSWER_S = 5.0  # without an answer for so long, there is no broker
SAY_S = 5.0  # between two commits of the offsets to Kafka's group
LAST_S = 1.0  # for the last of these, when the stage is to end and nobody may answer


class LagReporter:
    """Ends and done offsets of the partitions that one consumer has; reports them to metrics and health."""

    def __init__(self, context: Context, stage: str, consumer: AIOKafkaConsumer) -> None:
        self._context, self._stage, self._consumer = context, stage, consumer
        self._done: dict[KafkaPartition, int] = {}
        self.ends: dict[KafkaPartition, int] = {}
        self._said: dict[KafkaPartition, int] = {}
        self._task = asyncio.create_task(self._watch(), name=f"{stage}-lag")

    def given(self, done: dict[KafkaPartition, int]) -> None:
        """These partitions are this worker's now, read and written up to these offsets; others are not."""
        for place in self._done.keys() - done.keys():
            self._context.health.unassigned(self._stage, *place)
            self._context.metrics.lag.remove(self._stage, place.topic, str(place.partition))
        self._done = dict(done)
        self.ends = {place: end for place, end in self.ends.items() if place in done}

    def done(self, place: KafkaPartition, offset: int) -> None:
        """The store has this partition up to `offset`."""
        if place in self._done:
            self._done[place] = offset
            self._report(place)

    def at_end(self, place: KafkaPartition) -> bool:
        return place in self.ends and self._done.get(place, -1) >= self.ends[place]

    async def close(self) -> None:
        """Stop asking, and leave the offsets in Kafka's group as they are in the store."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._say(LAST_S)

    async def _watch(self) -> None:
        said_at = time.monotonic()
        while True:
            await asyncio.sleep(ASK_S)
            await self._ask()
            if time.monotonic() - said_at >= SAY_S:
                await self._say()
                said_at = time.monotonic()

    async def _ask(self) -> None:
        from aiokafka.errors import KafkaError

        places = list(self._done)
        if not places:
            return
        try:
            ends = await asyncio.wait_for(self._consumer.end_offsets(places), ANSWER_S)
        except (KafkaError, OSError) as error:
            self._context.health.failed("kafka", f"{self._stage} is not told the ends: {type(error).__name__}")
            for place in places:
                self._report(place)
            return
        self._context.health.up("kafka")
        for place, end in ends.items():
            if place in self._done:
                self.ends[KafkaPartition(*place)] = end
                self._report(KafkaPartition(*place))

    async def _say(self, answer_s: float = ANSWER_S) -> None:
        """Commit to Kafka's group: nothing reads it back here, but autoscalers and Kafka's own tools look there."""
        from aiokafka import TopicPartition
        from aiokafka.errors import KafkaError

        done = {place: offset for place, offset in self._done.items() if self._said.get(place) != offset}
        if not done:  # aiokafka raises ValueError for an empty commit
            return
        offsets = {TopicPartition(*place): offset for place, offset in done.items()}
        try:
            await asyncio.wait_for(self._consumer.commit(offsets), answer_s)
        except (KafkaError, OSError):
            return  # a rebalance, or no broker: said next time
        self._said |= done

    def _report(self, place: KafkaPartition) -> None:
        done = self._done[place]
        left = max(0, self.ends.get(place, done) - done)
        self._context.metrics.lag.labels(self._stage, place.topic, str(place.partition)).set(left)
        self._context.health.progressed(self._stage, place.topic, place.partition, done, left, time.monotonic())
