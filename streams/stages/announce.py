"""Sends what the outbox holds. Sent means acknowledged by the broker; until then it is tried again, for as long as the
worker lives.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from interest.store.sql import writing
from streams.stages.retry import RetryPolicy
from streams.stages.stage import Context
from streams.store import outbox
from streams.store.outbox import Announcement

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer


class Announcer:
    """One stage's sender. `part` names it in retries and health."""

    def __init__(self, context: Context, producer: AIOKafkaProducer, part: str) -> None:
        self._context, self._producer = context, producer
        self._retry = RetryPolicy(context, part)

    async def send(self, announcements: Sequence[Announcement]) -> None:
        """Send in the order given; return once all are acknowledged. Cancel it to give up: the outbox still has them.

        After a failure all are sent again, in order: one may arrive twice, none after a later one only.
        """
        if not announcements:
            return

        async def send() -> None:
            sent = [
                await self._producer.send(one.topic, one.message, key=one.user_id.encode(), partition=one.partition)
                for one in announcements
            ]
            await asyncio.gather(*sent)

        await self._retry.kafka(send, "cannot announce")
        for topic, count in Counter(one.topic for one in announcements).items():
            self._context.metrics.announced.labels(topic).inc(count)

    async def send_left(self, topics: Iterable[str], partitions: Iterable[int]) -> int:
        """Send what a worker before this one may have left for these partitions; return how many.

        Called when partitions have been assigned and before anything of theirs is worked on.
        """
        left = 0
        for topic in topics:
            found = await asyncio.to_thread(outbox.read_waiting, self._context.engine, topic, list(partitions))
            await self.send(found)
            await asyncio.to_thread(self.remove, found)
            left += len(found)
        return left

    def remove(self, announced: Sequence[Announcement]) -> None:
        """Delete acknowledged announcements in a transaction of their own, where no other is about to be made."""
        if announced:
            with writing(self._context.engine) as connection:
                outbox.remove(connection, announced)
