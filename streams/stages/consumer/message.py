"""A message in hand, and the small things around a group's messages that know nothing of who reads them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import structlog

if TYPE_CHECKING:
    from aiokafka import TopicPartition

T = TypeVar("T")
log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Message(Generic[T]):
    """A message in hand."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    raw: bytes | None
    timestamp_ms: int
    value: T
    lost: bool = False  # its partition went to another worker: give it up, acknowledging it does nothing


def decoded(record: Any, decode: Callable[[bytes | None, bytes | None], Any]) -> tuple[Message[Any], str | None]:
    """The message of an aiokafka record, and the reason for which it cannot be decoded."""
    message: Message[Any] = Message(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        raw=record.value,
        timestamp_ms=record.timestamp,
        value=None,
    )
    try:
        message.value = decode(record.key, record.value)
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        return message, str(error) or type(error).__name__
    return message, None


def listener(revoked: Callable[..., Awaitable[None]], given: Callable[..., Awaitable[None]]) -> Any:
    from aiokafka import ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
        async def on_partitions_revoked(self, revoked_now: Collection[TopicPartition]) -> None:
            await revoked(revoked_now)

        async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
            await given(assigned)

    return Listener()


async def within(deadline: float, work: Awaitable[None]) -> None:
    """Wait for it until the deadline (time.monotonic); what fails or is late is told and left."""
    try:
        async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
            await work
    except TimeoutError:
        log.info("not finished within the deadline")
    except Exception as error:
        log.warning("failed while giving up partitions", error=f"{type(error).__name__}: {error}")
