"""Dead letters: a message that cannot be used, kept whole beside the reason, in the topic `<topic>.dead`.

A letter is keyed by the place of its message, so that one sent twice (a crash before the commit) is told. Pure: knows
no client of Kafka.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from interest.errors import InputError
from streams.kafka.clients import MAX_DEAD

MAX_EXCERPT = 1_024  # bytes kept of a message that is larger than a dead letter may be, and of a reason: enough to see
Header = tuple[str, bytes]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A letter as it is read: where its message was, why it was unusable, and its bytes."""

    topic: str  # of the message; full name, with the prefix
    partition: int
    offset: int
    timestamp_ms: int  # the message's own time
    reason: str
    key: bytes | None
    value: bytes | None
    truncated: int | None = None  # the size the value had, where it was cut: such a letter cannot be replayed


def dead_letter(
    topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    timestamp_ms: int,
    reason: str,
    most: int = MAX_DEAD,
) -> tuple[bytes, bytes | None, list[Header]]:
    """Key, value and headers of the letter about one message; a value of more than `most` bytes is cut."""
    headers: list[Header] = [
        ("reason", reason.encode(errors="backslashreplace")[:MAX_EXCERPT]),
        ("topic", topic.encode()),
        ("partition", b"%d" % partition),
        ("offset", b"%d" % offset),
        ("timestamp", b"%d" % timestamp_ms),
    ]
    size = len(value or b"")
    if key is not None:
        headers.append(("key", key))
    if size + len(key or b"") > most and value is not None:
        headers.append(("truncated", b"%d" % size))
        value = value[:MAX_EXCERPT]
    return letter_key(topic, partition, offset), value, headers


def letter_key(topic: str, partition: int, offset: int) -> bytes:
    """The key of the letter about one message: topic, partition and offset."""
    return f"{topic}/{partition}/{offset}".encode()


def read_letter(value: bytes | None, headers: Iterable[Header]) -> DeadLetter:
    """The letter that `dead_letter` made. Raises InputError for a message that is none."""
    found = dict(headers)
    try:
        return DeadLetter(
            topic=found["topic"].decode(),
            partition=int(found["partition"]),
            offset=int(found["offset"]),
            timestamp_ms=int(found["timestamp"]),
            reason=found["reason"].decode(errors="replace"),
            key=found.get("key"),
            value=value,
            truncated=int(found["truncated"]) if "truncated" in found else None,
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"this is not a dead letter of interestream: its headers have no usable {error}") from None
