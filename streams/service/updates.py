"""Server-sent events about one user: behaviours, closings, interests, representations as the store gets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, select

from interest.store.sql import behavior_of, partition_of
from streams.service.problems import STORE_AWAY
from streams.service.reads import MARKS, marks

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
        try:
            now = await asyncio.to_thread(_look, engine, user_id)
            events, seen = ([], seen) if now == seen else await asyncio.to_thread(_new, engine, user_id, seen, now)
        except STORE_AWAY:  # what has happened meanwhile is told when it is back
            events = []
        if not events:
            silent += poll_s
            if silent >= SILENCE_S:
                silent = 0.0
                yield b": still here\n\n"
            continue
        silent = 0.0
        for event in events:
            yield event


def _look(engine: Engine, user_id: str) -> dict[str, Any]:
    with engine.connect() as connection:
        return marks(connection, user_id)


def _new(engine: Engine, user_id: str, seen: dict[str, Any], now: dict[str, Any]) -> tuple[list[bytes], dict[str, Any]]:
    """Events of what is there `now` beyond `seen`, at most MOST of a kind, and how far they reach."""
    events: list[bytes] = []
    reached: dict[str, Any] = {}
    with engine.connect() as connection:
        for kind, newest in now.items():
            before = seen[kind]
            if newest is None or (before is not None and newest < before):
                before = None  # the user was forgotten meanwhile, and begins anew
            reached[kind] = before
            for mark, told in _rows(connection, user_id, kind, -1 if before is None else before):
                events.append(_event(kind, told))
                reached[kind] = mark
    return events, reached


def _rows(connection: Connection, user_id: str, kind: str, after: int) -> Iterator[tuple[int, dict[str, Any]]]:
    column = MARKS[kind]
    query = select(column.table).where(column.table.c.user_id == user_id, column > after).order_by(column).limit(MOST)
    for row in connection.execute(query).mappings():
        if kind == "behavior":
            told = msgspec.to_builtins(behavior_of(row)) | {"seq": row["seq"]}
        elif kind == "partition":
            told = msgspec.to_builtins(partition_of(row))
        else:
            told = {name: value for name, value in row.items() if not isinstance(value, bytes)}
        yield row[column.name], told


def _event(kind: str, told: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(told) + b"\n\n"
