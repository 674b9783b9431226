"""Sends unusable messages to the topics of dead letters, and returns once the broker has them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import structlog

from streams.kafka.clients import MAX_DEAD, admin
from streams.kafka.dead_letter import dead_letter
from streams.kafka.provision import read_topics
from streams.kafka.topics import dead_of
from streams.stages.consumer.message import Record, Refused
from streams.stages.retry import RetryPolicy
from streams.stages.stage import Context

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

AT_ONCE = 1_000  # letters under way: a batch of nothing but large ones does not fill memory twice
LOGGED = (
    5  # letters that have a line each in the log, then so many a minute: enough to see a pattern; others are counted
)
LOG_EVERY_S = 60.0
LARGE = 8_192  # bytes of a message for which the limit of its topic of dead letters is asked
FRAMING = 8_192  # bytes of a letter beside its message: headers with key, reason and place
LIMIT_FOR_S = 60.0  # so long a topic's limit is taken for what it was
REASONS = 10  # that the line about the others names
KINDS, OTHER = 1_000, "other reasons"  # different reasons that are remembered between two of these lines
log = structlog.get_logger()


class DeadLetterWriter:
    """One stage's writer. A letter too large for its topic is cut; a flood of letters is a few lines of the log.

    Call `log_rest` now and then, and `close` at the end.
    """

    def __init__(
        self, context: Context, stage: str, producer: AIOKafkaProducer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context, self._stage, self._producer, self._clock = context, stage, producer, clock
        self._retry = RetryPolicy(context, stage)
        self._limits: dict[str, tuple[int, float]] = {}  # bytes by topic of dead letters, and when they were asked for
        self._asking = asyncio.Lock()
        self._logged, self._logged_at = 0, float("-inf")
        self._rest: Counter[str] = Counter()
        self._rest_at = float("-inf")  # when the line about the others was last written

    async def send(self, refused: Iterable[Refused]) -> None:
        """Return when every letter is acknowledged; waits for the broker as long as it takes."""
        waiting = list(refused)
        try:
            for start in range(0, len(waiting), AT_ONCE):
                await asyncio.gather(*(self._send_one(*one) for one in waiting[start : start + AT_ONCE]))
        finally:  # also of a batch that was interrupted
            self.log_rest()

    async def _send_one(self, record: Record, reason: str) -> None:
        from aiokafka.errors import MessageSizeTooLargeError

        topic, partition, offset = record.topic, record.partition, record.offset
        size = len(record.key or b"") + len(record.value or b"")

        async def send() -> None:
            most = MAX_DEAD if size < LARGE else await self._most(dead_of(topic))
            key, value, headers = dead_letter(
                topic, partition, offset, record.key, record.value, record.timestamp, reason, most
            )
            try:
                await self._producer.send_and_wait(dead_of(topic), value, key=key, headers=headers)
            except MessageSizeTooLargeError:  # the topic's limit was lowered since it was asked for
                self._limits.pop(dead_of(topic), None)
                raise

        await self._retry.kafka(send, "cannot write a dead letter")
        self._context.metrics.dead.labels(record.topic).inc()
        self._log(record, reason[:200])

    async def _most(self, dead_topic: str) -> int:
        """The bytes of a message that a letter in this topic may hold.

        Asked before, for aiokafka's idempotent producer does not recover from a batch that the broker refuses: its
        sequence number is spent, and whatever it sends to that partition afterwards is out of order.
        """

        def read() -> int:
            from kafka.errors import UnknownTopicOrPartitionError

            with admin(self._context.settings.kafka) as client:
                found = read_topics(client, [dead_topic]).get(dead_topic)
            if (
                found is None
            ):  # not made yet, or made a moment ago: its limit is not known, and nothing can be sent to it
                raise UnknownTopicOrPartitionError(f"no topic {dead_topic}; make it: interestream topics create")
            return found.max_bytes - FRAMING

        async with self._asking:
            most, asked_at = self._limits.get(dead_topic, (0, float("-inf")))
            if self._clock() - asked_at >= LIMIT_FOR_S:
                most = await self._retry.kafka(partial(asyncio.to_thread, read), "cannot read a topic's limit")
                self._limits[dead_topic] = most, self._clock()
        return min(most, MAX_DEAD)

    def _log(self, record: Record, reason: str) -> None:
        now = self._clock()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged, self._logged_at = 0, now
        if self._logged < LOGGED:
            self._logged += 1
            log.warning(
                "dead letter", stage=self._stage, topic=record.topic, partition=record.partition,
                offset=record.offset, reason=reason,
            )  # fmt: skip
        else:
            kind = f"{record.topic}: {reason}"
            self._rest[kind if kind in self._rest or len(self._rest) < KINDS else OTHER] += 1

    def log_rest(self) -> None:
        """One line about the letters that had none, once a minute."""
        if self._rest and self._clock() - self._rest_at >= LOG_EVERY_S:
            self._write_rest()

    def close(self) -> None:
        if self._rest:
            self._write_rest()

    def _write_rest(self) -> None:
        """A producer that sends nothing but rubbish fills its topic of dead letters, not the log as well."""
        named, total = dict(self._rest.most_common(REASONS)), self._rest.total()
        log.warning(
            "more dead letters", stage=self._stage, count=total, reasons=named, other=total - sum(named.values())
        )
        self._rest.clear()
        self._rest_at = self._clock()
