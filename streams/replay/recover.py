"""Reads back, from the end of a topic, which rows of a log each partition holds."""

from __future__ import annotations

from collections.abc import Mapping

from streams.kafka.clients import make_consumer
from streams.replay.messages import Sent, row_of
from streams.settings.schema import KafkaSettings


async def last_rows(
    settings: KafkaSettings, topic: str, source: bytes, starts: Mapping[int, int], ends: Mapping[int, int]
) -> dict[int, Sent]:
    """Of each partition the last row of the log `source` that lies from `starts` on and before `ends`, if any does.

    A producer writes a partition's rows in order, so the last one found tells that all before it are there.
    """
    from aiokafka import TopicPartition

    last: dict[int, Sent] = {}
    left = {TopicPartition(topic, partition): end for partition, end in ends.items() if starts[partition] < end}
    if not left:
        return last
    async with make_consumer(settings, max_partition_fetch_bytes=4 << 20) as consumer:
        consumer.assign(list(left))
        for place in left:
            consumer.seek(place, starts[place.partition])
        while left:
            fetched = await consumer.getmany(*left, timeout_ms=500)
            for place, messages in fetched.items():
                for message in messages:
                    row = row_of(message.headers, source) if message.offset < ends[place.partition] else None
                    if row is not None:
                        last[place.partition] = Sent(row, message.value or b"")
            # the position and not the last message: the end may be a transaction's marker, which is never handed out
            left = {place: end for place, end in left.items() if await consumer.position(place) < end}
    return last
