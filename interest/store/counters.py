"""Named counters of the whole store, by which a writer learns that what it remembers is outdated."""

from __future__ import annotations

from sqlalchemy import Connection, select

from interest.store.sql import insert_new
from interest.store.tables import counters

FORGETS = "forgets"  # users forgotten: memory that is older may hold one of them, and must not write
REMOVALS = "removals"  # removals from behaviour banks: a walk that is older would mark as filled what is gone
ITEMS = "items"  # changes of the catalogue: the costs of a token policy are read anew
ITEM_VECTORS = "item_vectors"  # vectors of items' texts that came in: a scorer looks for those that it lacked


def read_locked(connection: Connection, name: str) -> int:
    """The counter's value, locked: it cannot change before the caller's transaction ends.

    PostgreSQL locks the row for other readers to share; SQLite has one writer at a time anyway.
    """
    query = select(counters.c.value).where(counters.c.name == name).with_for_update(read=True)
    value = connection.execute(query).scalar()
    if value is None:  # a row that is not there cannot be locked
        insert_new(connection, counters, [{"name": name, "value": 0}])
        value = connection.execute(query).scalar_one()
    return int(value)


def read(connection: Connection, name: str) -> int:
    """The counter's value now."""
    return int(connection.execute(select(counters.c.value).where(counters.c.name == name)).scalar() or 0)


def increment(connection: Connection, name: str) -> None:
    """Count one more, after every transaction that holds the counter has ended and before the next one gets it."""
    insert_new(connection, counters, [{"name": name, "value": 0}])
    connection.execute(counters.update().where(counters.c.name == name).values(value=counters.c.value + 1))
