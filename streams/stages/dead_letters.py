"""Sends unusable messages to the topics of dead letters, and returns once the broker has them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import structlog

from streams.kafka.clients import MAX_DEAD
from streams.kafka.dead_letter import dead_letter
from streams.kafka.topics import dead_of
from streams.stages.ingest.decode import Message, Refused
from streams.stages.retry import RetryPolicy
from streams.stages.stage import Context

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

AT_ONCE = 1_000  # letters under way: a batch of nothing but large ones does not fill memory twice
TOLD = 5  # letters of a batch that have a line each in the log: enough to see a pattern; the rest are counted
REASONS = 10  # that the line about the rest names
log = structlog.get_logger()


async def send_to_dead_letter(
    context: Context, retry: RetryPolicy, producer: AIOKafkaProducer, refused: Iterable[Refused]
) -> None:
    """Return when every letter is acknowledged; waits for the broker as long as it takes."""
    waiting, sent = list(refused), list[Refused]()
    try:
        for start in range(0, len(waiting), AT_ONCE):
            chunk = waiting[start : start + AT_ONCE]
            await asyncio.gather(*(_one(context, retry, producer, sent, *one) for one in chunk))
    finally:  # also of a batch that was interrupted
        _tell(sent)


async def _one(
    context: Context,
    retry: RetryPolicy,
    producer: AIOKafkaProducer,
    sent: list[Refused],
    message: Message,
    reason: str,
) -> None:
    from aiokafka.errors import MessageSizeTooLargeError

    async def send() -> None:
        try:
            await write(MAX_DEAD)
        except MessageSizeTooLargeError:  # the topic takes less than ours do
            await write(0)

    async def write(most: int) -> None:
        topic, partition, offset = message.topic, message.partition, message.offset
        key, value, headers = dead_letter(
            topic, partition, offset, message.key, message.value, message.timestamp, reason, most
        )
        await producer.send_and_wait(dead_of(topic), value, key=key, headers=headers)

    await retry.kafka(send, "cannot write a dead letter")
    context.metrics.dead.labels(message.topic).inc()
    sent.append((message, reason))


def _tell(sent: Sequence[Refused]) -> None:
    """A producer that sends nothing but rubbish fills its topic of dead letters, not the log as well."""
    for message, reason in sent[:TOLD]:
        log.warning(
            "dead letter", topic=message.topic, partition=message.partition, offset=message.offset, reason=reason[:200]
        )
    rest = Counter(f"{message.topic}: {reason[:200]}" for message, reason in sent[TOLD:])
    if rest:
        named = dict(rest.most_common(REASONS))
        log.warning("more dead letters", count=rest.total(), reasons=named, other=rest.total() - sum(named.values()))
