"""The tables of this layer: how far each source has been read, and the policy the store was partitioned by."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, LargeBinary, Table, Text

from interest.store.tables import metadata

TOPIC_SOURCE = "topic:"  # before a topic's full name in `offsets`

# Advanced by compare-and-set as the first statement of every ingest transaction: it fences a second writer.
offsets = Table(
    "offsets",
    metadata,
    Column("source", Text, primary_key=True),  # "log:<fingerprint>" or "topic:<name>"
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, nullable=False),  # rows of the source consumed
    Column("digest", Text, nullable=False, server_default=""),  # of a log's consumed rows; a topic's id
    Column("watermark", Float(53)),  # the greatest event time consumed
    Column("accepted", Integer, nullable=False),
    Column("late", Integer, nullable=False),  # of the accepted, older than the newest closed partition's end
    Column("duplicates", Integer, nullable=False),  # dropped
    Column("rejected", Integer, nullable=False),  # unreadable, written aside
    sqlite_with_rowid=False,
)

# One row per generation: what policy made its partitions.
policies = Table(
    "policies",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("policy", Text, nullable=False),  # JSON
    sqlite_with_rowid=False,
)

# Messages that stand for rows already committed and may not have reached Kafka yet (streams/store/outbox.py).
outbox = Table(
    "outbox",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),  # of the message it came from
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("user_id", Text, nullable=False, index=True),  # so that `forget` finds it
    Column("message", LargeBinary),
    sqlite_with_rowid=False,
)


def source_of(topic: str) -> str:
    """A topic's name in `offsets`."""
    return TOPIC_SOURCE + topic
