"""Reads what topics hold, for tests."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer

from streams.settings.schema import KafkaSettings


class Message(NamedTuple):
    offset: int
    timestamp_ms: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def read_all(settings: KafkaSettings, topic: str) -> dict[int, list[Message]]:
    """Every message of a topic, by partition."""
    return asyncio.run(_read(settings, topic))


async def _read(settings: KafkaSettings, topic: str) -> dict[int, list[Message]]:
    async with AIOKafkaConsumer(topic, bootstrap_servers=settings.brokers, auto_offset_reset="earliest") as consumer:
        while not consumer.assignment():  # the broker has not told the topic yet
            await asyncio.sleep(0.1)
        places = sorted(consumer.assignment())
        ends = await consumer.end_offsets(places)
        found: dict[int, list[Message]] = {place.partition: [] for place in places}
        while left := [place for place in places if await consumer.position(place) < ends[place]]:
            for place, records in (await consumer.getmany(*left, timeout_ms=500)).items():
                found[place.partition] += [
                    Message(one.offset, one.timestamp, one.key, one.value, tuple(one.headers)) for one in records
                ]
        return found
