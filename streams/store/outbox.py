"""The outbox: messages that the store's rows stand for and Kafka may not have yet.

A message is written in the transaction of the rows it announces, sent after the commit, and deleted once the broker has
acknowledged it, in some later transaction: a crash in between sends it once more, and nothing is ever unsaid. Receivers
tell a message by its keys, so twice is once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import Connection, Engine, and_, bindparam, delete, insert, select

from streams.store.tables import outbox


class Announcement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One message to send: its place in the outbox, its topic, its key and its bytes."""

    topic: str  # where it goes; full name, with the prefix
    partition: int  # the Kafka partition it goes to: that of the message it came from, so that a user stays in order
    offset: int  # of the message it came from
    n: int = 0  # its place among the announcements of that message and topic
    user_id: str  # its key
    message: bytes | None  # None is a tombstone


def add(connection: Connection, announcements: Sequence[Announcement]) -> None:
    """Write announcements inside the transaction of what they announce."""
    if announcements:
        connection.execute(insert(outbox), [msgspec.structs.asdict(announcement) for announcement in announcements])


def read_waiting(engine: Engine, topic: str, partitions: Iterable[int]) -> list[Announcement]:
    """What may not have reached `topic` yet, in order: what a worker sends first when it is given the partitions."""
    query = (
        select(outbox)
        .where(outbox.c.topic == topic, outbox.c.partition.in_(list(partitions)))
        .order_by(outbox.c.partition, outbox.c.offset, outbox.c.n)
    )
    with engine.connect() as connection:
        return [Announcement(**row) for row in connection.execute(query).mappings()]


def remove(connection: Connection, announced: Sequence[Announcement]) -> None:
    """Delete what the broker has acknowledged, inside the caller's transaction.

    Deletes up to the greatest offset and n of each topic and partition, so the caller hands in a prefix of what waits.
    """
    last: dict[tuple[str, int], tuple[int, int]] = {}
    for announcement in announced:
        partition_key = (announcement.topic, announcement.partition)
        last[partition_key] = max(last.get(partition_key, (-1, -1)), (announcement.offset, announcement.n))
    for (topic, partition), (offset, n) in last.items():
        in_partition = and_(outbox.c.topic == topic, outbox.c.partition == partition)
        connection.execute(delete(outbox).where(in_partition, outbox.c.offset < offset))
        connection.execute(delete(outbox).where(in_partition, outbox.c.offset == offset, outbox.c.n <= n))


def remove_each(connection: Connection, announced: Sequence[Announcement]) -> None:
    """Delete exactly these, inside the caller's transaction: for a stage that finishes its messages out of order."""
    if announced:
        columns = (outbox.c.topic, outbox.c.partition, outbox.c.offset, outbox.c.n)
        query = delete(outbox).where(*(column == bindparam(f"b_{column.name}") for column in columns))
        connection.execute(
            query,
            [
                {f"b_{column.name}": getattr(announcement, column.name) for column in columns}
                for announcement in announced
            ],
        )
