"""A log's rows become batches of Kafka messages, partition by partition. Knows nothing of brokers.

Every message carries the header "replay": 8 bytes that name the log, then the row's number in the order of time, big
endian. A consumer may ignore it; a producer that comes after a crash reads from it what is on the topic already.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from interest.errors import InputError
from streams.files.rows import Rows
from streams.kafka.clients import MAX_MESSAGE
from streams.kafka.partitioner import Partitioner

if TYPE_CHECKING:
    from aiokafka.producer.message_accumulator import BatchBuilder

HEADER = "replay"
BATCH = 900_000  # bytes of one batch: a topic refuses a batch larger than MAX_MESSAGE
LARGEST = MAX_MESSAGE - 1024  # bytes of key and value: the rest is for the batch's own header and the message's
_ROW = struct.Struct(">8sq")
_ENCODER = msgspec.json.Encoder()


class ChangedError(InputError):
    """The log is not the one that was produced before."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The last row of a log that one partition holds, and the message's value."""

    row: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """The rows of one chunk as keys, values and partitions."""

    keys: list[bytes]
    values: list[bytes]
    partitions: list[int]


def encode(rows: Rows, partitioner: Partitioner) -> Encoded:
    return Encoded(
        [user.encode() for user in rows.user_id],
        [_ENCODER.encode(behavior) for behavior in rows.behaviors()],
        [partitioner[user] for user in rows.user_id],
    )


def row_of(headers: object, source: bytes) -> int | None:
    """The number of the row that a message with these headers carries; None: it is not of this log."""
    for name, value in headers:  # type: ignore[attr-defined]  # ((name, bytes), ...), as aiokafka hands them out
        if name == HEADER and len(value) == _ROW.size:
            log, row = _ROW.unpack(value)
            return int(row) if log == source else None
    return None


def batches(
    encoded: Encoded,
    start: int,
    stop: int,
    first: int,
    *,
    source: bytes,
    sent: Mapping[int, Sent],
    now_ms: int,
    new: Callable[[], BatchBuilder],
) -> dict[int, list[BatchBuilder]]:
    """Rows start..stop of a chunk that begins at row `first` of the log, but for those that were sent before.

    Raises ChangedError where a row differs from what was sent, InputError where one is too large for a message.
    """
    made: dict[int, list[BatchBuilder]] = {}
    pack, keys, values, partitions = _ROW.pack, encoded.keys, encoded.values, encoded.partitions
    for index in range(start, stop):
        partition, row, key, value = partitions[index], first + index, keys[index], values[index]
        before = sent.get(partition)
        if before is not None and row <= before.row:
            if row == before.row and value != before.value:
                raise ChangedError(f"row {row:,} is not what was produced")
            continue
        if len(key) + len(value) > LARGEST:
            raise InputError(
                f"row {row:,} in order of time, of user {key.decode()!r}, is {len(value):,} bytes as JSON; a message "
                f"holds {LARGEST:,}: take the row out, or shorten it"
            )
        open_ = made.get(partition)
        if open_ is None:
            open_ = made[partition] = [new()]
        headers = [(HEADER, pack(source, row))]
        if open_[-1].append(timestamp=now_ms, key=key, value=value, headers=headers) is None:
            open_.append(new())
            open_[-1].append(timestamp=now_ms, key=key, value=value, headers=headers)
    return made
