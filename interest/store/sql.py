"""Idempotent inserts on SQLite and PostgreSQL, and the reads that every layer shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, Table, func, select

from interest.store.tables import behaviors, items, partitions, users
from interest.types import Behavior, Item, Partition, Reason, User

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

KEYS_AT_ONCE = 500  # below every driver's limit on parameters
MANY_KEYS = 20_000  # from here on one pass over the table takes less time than asking for keys


def _insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    if connection.dialect.name == "postgresql":  # imported where it is used: a tenth of a command's start
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


def writing(engine: Engine) -> AbstractContextManager[Connection]:
    """One write transaction. On SQLite it takes the write lock at once: it waits instead of failing half-way."""
    return engine.execution_options(writing=True).begin()


def insert_new(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, leaving alone those whose primary key is there already."""
    if rows:
        connection.execute(_insert(connection, table).on_conflict_do_nothing(), rows)


def upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, replacing those whose primary key is there already."""
    if not rows:
        return
    statement = _insert(connection, table)
    keys = [column.name for column in table.primary_key]
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), rows)


def add_up(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows of counters, adding to those whose primary key is there already; two writers at once both count."""
    if not rows:
        return
    statement = _insert(connection, table)
    keys = [column.name for column in table.primary_key]
    sums = {name: table.c[name] + statement.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=sums), rows)


def behaviors_between(
    connection: Connection, user_id: str, first_seq: int, last_seq: int
) -> list[tuple[int, Behavior]]:
    """A user's behaviours first_seq..last_seq (both included) in order of arrival, each with its sequence number."""
    query = (
        select(behaviors)
        .where(behaviors.c.user_id == user_id, behaviors.c.seq.between(first_seq, last_seq))
        .order_by(behaviors.c.seq)
    )
    return [(row["seq"], behavior_of(row)) for row in connection.execute(query).mappings()]


def behaviors_inside(
    connection: Connection, partition: Partition, most: int | None = None
) -> list[tuple[int, Behavior]]:
    """The behaviours of a partition in order of arrival, each with its sequence number; of `most`, the newest."""
    query = select(behaviors).where(
        behaviors.c.user_id == partition.user_id, behaviors.c.seq.between(partition.first_seq, partition.last_seq)
    )
    if partition.scene is not None:
        query = query.where(of_scene(partition.scene))
    rows = connection.execute(query.order_by(behaviors.c.seq.desc()).limit(most)).mappings()
    return [(row["seq"], behavior_of(row)) for row in rows][::-1]


def of_scene(scene: str | ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a row of `behaviors` is of a scene, by its name in `partitions`: empty for those without one."""
    return func.coalesce(behaviors.c.scene, "") == scene


def partition_size() -> ColumnElement[int]:
    """How many behaviours a row of `partitions` holds."""
    return func.coalesce(partitions.c.members, partitions.c.last_seq - partitions.c.first_seq + 1)


def behavior_of(row: RowMapping) -> Behavior:
    return Behavior(
        user_id=row["user_id"],
        item_id=row["item_id"],
        action=row["action"],
        at=row["at"],
        value=row["value"],
        scene=row["scene"],
        event_id=row["event_id"],
    )


def partitions_of(connection: Connection, user_id: str, generation: int = 0) -> list[Partition]:
    """A user's closed partitions, oldest first."""
    query = (
        select(partitions)
        .where(partitions.c.user_id == user_id, partitions.c.generation == generation)
        .order_by(partitions.c.index)
    )
    return [partition_of(row) for row in connection.execute(query).mappings()]


def partition_of(row: RowMapping) -> Partition:
    return Partition(
        user_id=row["user_id"],
        index=row["index"],
        generation=row["generation"],
        first_seq=row["first_seq"],
        last_seq=row["last_seq"],
        opened_at=row["opened_at"],
        closed_at=row["closed_at"],
        reason=Reason(row["reason"]),
        scene=row["scene"],
        previous=row["previous"],
        members=row["members"],
    )


def item_row(item: Item) -> dict[str, Any]:
    return {
        "item_id": item.item_id,
        "title": item.title,
        "categories": msgspec.json.encode(item.categories).decode(),
        "attributes": msgspec.json.encode(item.attributes).decode(),
    }


def user_row(user: User) -> dict[str, Any]:
    return {"user_id": user.user_id, "attributes": msgspec.json.encode(user.attributes).decode()}


def read_items(connection: Connection, item_ids: Iterable[str] | None = None) -> dict[str, Item]:
    """The catalogue by item id, whole or only `item_ids`."""
    return {
        row["item_id"]: Item(
            item_id=row["item_id"],
            title=row["title"],
            categories=tuple(msgspec.json.decode(row["categories"])),
            attributes=msgspec.json.decode(row["attributes"]),
        )
        for row in _by_key(connection, items, "item_id", item_ids)
    }


def read_users(connection: Connection, user_ids: Iterable[str] | None = None) -> dict[str, User]:
    """Profiles by user id, whole or only `user_ids`."""
    return {
        row["user_id"]: User(user_id=row["user_id"], attributes=msgspec.json.decode(row["attributes"]))
        for row in _by_key(connection, users, "user_id", user_ids)
    }


def _by_key(connection: Connection, table: Table, key: str, wanted: Iterable[str] | None) -> Iterable[RowMapping]:
    if wanted is None:
        yield from connection.execute(select(table)).mappings()
        return
    keys = list(wanted)
    if len(keys) > MANY_KEYS:
        chosen = set(keys)
        rows = connection.execute(select(table).execution_options(yield_per=KEYS_AT_ONCE)).mappings()
        yield from (row for row in rows if row[key] in chosen)
        return
    for start in range(0, len(keys), KEYS_AT_ONCE):
        query = select(table).where(table.c[key].in_(keys[start : start + KEYS_AT_ONCE]))
        yield from connection.execute(query).mappings()
