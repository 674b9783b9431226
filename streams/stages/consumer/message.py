"""A Kafka record as the stages use it, and a message in flight: its decoded value and the assignment it came under."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from streams.stages.consumer.assignment import Assignment

T = TypeVar("T")


class Record(Protocol):
    """What is used of aiokafka's ConsumerRecord."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


Refused = tuple[Record, str]  # a record that cannot be used, and why


@dataclass(slots=True, eq=False)
class Message(Generic[T]):
    """A message in flight."""

    record: Record
    value: T
    assignment: Assignment[Any]

    @property
    def partition(self) -> int:
        return self.record.partition

    @property
    def offset(self) -> int:
        return self.record.offset

    @property
    def lost(self) -> bool:
        """Its partition went to another worker: give it up, acknowledging it does nothing."""
        return self.assignment.revoked


def decoded(
    record: Record, decode: Callable[[bytes | None, bytes | None], T], assignment: Assignment[Any]
) -> tuple[Message[Any], str | None]:
    """The message of a record, and the reason for which it cannot be decoded."""
    value, reason = decoded_value(record, decode)
    return Message(record, value, assignment), reason


def decoded_value(record: Record, decode: Callable[[bytes | None, bytes | None], T]) -> tuple[T | None, str | None]:
    """The value of a record, or the reason for which it cannot be decoded."""
    try:
        return decode(record.key, record.value), None
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        return None, str(error) or type(error).__name__
