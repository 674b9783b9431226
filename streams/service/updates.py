"""Server-sent events about one user: behaviours, closings, interests, representations as the store gets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, select

from fusion.tables import representations
from interest.store.sql import behavior_of, partition_of
from interest.store.tables import behaviors, interests, partitions
from streams.service.reads import marks

POLL_S = 0.5  # one indexed look at the store
SILENCE_S = 15.0  # after which a comment is sent, so that what lies between does not close the connection
MOST = 1_000  # rows of one kind told at a time


async def updates(engine: Engine, user_id: str, poll_s: float = POLL_S) -> AsyncGenerator[bytes, None]:
    """Events from now on, until the caller stops reading."""
    seen = await asyncio.to_thread(_look, engine, user_id)
    silent = 0.0
    yield _event("ready", seen)
    while True:
        await asyncio.sleep(poll_s)
        now = await asyncio.to_thread(_look, engine, user_id)
        if now == seen:
            silent += poll_s
            if silent >= SILENCE_S:
                silent = 0.0
                yield b": still here\n\n"
            continue
        silent = 0.0
        for event in await asyncio.to_thread(_new, engine, user_id, seen, now):
            yield event
        seen = now


def _look(engine: Engine, user_id: str) -> dict[str, Any]:
    with engine.connect() as connection:
        return marks(connection, user_id)


def _new(engine: Engine, user_id: str, seen: dict[str, Any], now: dict[str, Any]) -> list[bytes]:
    with engine.connect() as connection:
        return [
            _event(kind, told)
            for kind in now
            if now[kind] is not None and (seen[kind] is None or now[kind] > seen[kind])
            for told in _rows(connection, user_id, kind, -1 if seen[kind] is None else seen[kind])
        ]


def _rows(connection: Connection, user_id: str, kind: str, after: int) -> Iterator[dict[str, Any]]:
    column = {
        "behavior": behaviors.c.seq,
        "partition": partitions.c.index,
        "interest": interests.c.index,
        "representation": representations.c.index,
    }[kind]
    query = select(column.table).where(column.table.c.user_id == user_id, column > after).order_by(column).limit(MOST)
    for row in connection.execute(query).mappings():
        if kind == "behavior":
            yield msgspec.to_builtins(behavior_of(row)) | {"seq": row["seq"]}
        elif kind == "partition":
            yield msgspec.to_builtins(partition_of(row))
        else:
            yield {name: value for name, value in row.items() if not isinstance(value, bytes)}


def _event(kind: str, told: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(told) + b"\n\n"
