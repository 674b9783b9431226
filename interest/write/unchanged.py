"""Whether partitions are still those that were read: while the LLM writes, a user may be forgotten and come back with
others under the same numbers, and no text of the forgotten ones may be stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import msgspec
from sqlalchemy import Connection, select

from interest.store import counters
from interest.store.sql import behaviors_inside, partition_of
from interest.store.tables import partitions
from interest.types import Behavior, Partition


class Read(Protocol):
    """`interest.write.backlog.Work`: a partition as it was read."""

    partition: Partition
    content: bytes
    content_before: bytes
    forgets: int | None


def content_of(partition: Partition, rows: Sequence[tuple[int, Behavior]]) -> bytes:
    """A digest of the partition and its behaviours."""
    return hashlib.blake2b(msgspec.json.encode((partition, rows)), digest_size=16).digest()


def read_partition(connection: Connection, key: tuple[str, int], generation: int) -> Partition | None:
    """The partition of a user and index; None where the user was forgotten."""
    query = select(partitions).where(
        partitions.c.user_id == key[0], partitions.c.index == key[1], partitions.c.generation == generation
    )
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else partition_of(row)


def unchanged(connection: Connection, read: Sequence[Read]) -> list[bool]:
    """Of each, whether the store has the partition, and the one before, as they were read.

    Nobody is forgotten before the caller's transaction ends. Behaviours are compared only where somebody was forgotten
    since they were read.
    """
    forgets = counters.read_locked(connection, counters.FORGETS)
    return [one.forgets == forgets or _is_same(connection, one) for one in read]


def _is_same(connection: Connection, read: Read) -> bool:
    head = read.partition
    return _content(connection, head, head.index) == read.content and (
        head.before is None or _content(connection, head, head.before) == read.content_before
    )


def _content(connection: Connection, head: Partition, index: int) -> bytes:
    """Empty where there is none."""
    stored = read_partition(connection, (head.user_id, index), head.generation)
    return b"" if stored is None else content_of(stored, behaviors_inside(connection, stored))
