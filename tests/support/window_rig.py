"""A window of a group's messages of numbers, on a real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from streams.kafka.clients import group_of, make_producer
from streams.kafka.topics import Topics
from streams.stages.consumer.message import Message
from streams.stages.consumer.offsets import read_group_offsets
from streams.stages.consumer.window import MessageWindow
from streams.stages.stage import Context

PATIENCE_S = 40.0


def decode(_key: bytes | None, value: bytes | None) -> int:
    return msgspec.json.decode(value or b"", type=int)


def topic_of(context: Context) -> str:
    return Topics(context.settings.kafka.prefix).partitions


async def produce(context: Context, values: dict[int, list[bytes | None]]) -> None:
    producer = make_producer(context.settings.kafka)
    await producer.start()
    for partition, batch in values.items():
        for value in batch:
            await producer.send(topic_of(context), value, key=b"u", partition=partition)
    await producer.stop()


@asynccontextmanager
async def reading(context: Context, **options: Any) -> AsyncIterator[MessageWindow[int]]:
    """A window of the topic, which stops cleanly at the end."""
    producer = make_producer(context.settings.kafka)
    await producer.start()
    asked = {"decode": decode, "size": 100, "remedy": "mend it"} | options
    window: MessageWindow[int] = MessageWindow(
        context, stage="interest", topic=topic_of(context), producer=producer, **asked
    )
    await window.start()
    try:
        yield window
    finally:
        await window.stop(5.0)
        await producer.stop()


async def taken(window: MessageWindow[int], count: int) -> list[Message[int]]:
    """So many messages, or fewer after a while."""
    found: list[Message[int]] = []
    end = time.monotonic() + PATIENCE_S
    while len(found) < count and time.monotonic() < end:
        found += await window.take()
    return found


async def until(true: Callable[[], bool | Awaitable[bool]]) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        answer = true()
        if answer is True or (answer is not False and await answer):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come about")


def committed(context: Context) -> dict[int, int | None]:
    kafka = context.settings.kafka
    offsets = read_group_offsets(kafka, group_of(kafka, "interest"), topic_of(context))
    return {partition: one.committed for partition, one in offsets.by_partition.items()}


def numbers(count: int) -> list[bytes | None]:
    return [b"%d" % n for n in range(count)]
