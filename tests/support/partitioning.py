"""Behaviours and policies of any kind, and what ingesting them leaves in a store."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, event, select
from sqlalchemy.pool import StaticPool

from interest.store.tables import behaviors, metadata, partitions
from interest.types import Behavior
from streams.store.engine import _begin
from streams.ubsp.ingest import Ingest, Position
from streams.ubsp.policy import Dedupe, Policy, Scenes, Span

DAY = 86_400.0

policies = st.builds(
    Policy,
    count=st.sampled_from([1, 2, 3, 5]),
    gap_s=st.sampled_from([None, 5.0, 3 * DAY]),
    span=st.sampled_from([None, *Span]),
    tokens=st.sampled_from([None, 10, 25]),
    dedupe=st.sampled_from([None, *Dedupe]),
) | st.builds(Policy, count=st.none(), gap_s=st.sampled_from([5.0, DAY]), span=st.sampled_from([None, *Span]))

events = st.lists(
    st.builds(
        Behavior,
        user_id=st.sampled_from(["ann", "bob", "eve"]),
        item_id=st.sampled_from(["1", "2", "3"]),
        action=st.sampled_from(["rate", "play"]),
        at=st.integers(0, 20).map(float) | st.integers(0, 40).map(lambda day: day * DAY),
        value=st.none() | st.sampled_from([0.0, 1.0, 2.5]),
        scene=st.none() | st.sampled_from(["home", "shop"]),
        event_id=st.none() | st.sampled_from(["a", "b", "c"]),
    ),
    max_size=40,
)


def empty() -> Engine:
    """A store in memory, a copy of one that was made once: twenty times as fast as making its tables."""
    engine = create_engine("sqlite://", creator=_copy, poolclass=StaticPool)
    event.listen(engine, "begin", _begin)
    return engine


def _copy() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    connection.deserialize(_tables())
    return connection


@cache
def _tables() -> bytes:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(engine)
    connection: Any = engine.raw_connection().driver_connection
    made: bytes = connection.serialize()
    return made


def content(engine: Engine) -> list[list[Any]]:
    with engine.connect() as connection:
        return [
            [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for table in (behaviors, partitions)
        ]


def run(engine: Engine, log: Sequence[Behavior], policy: Policy, ends: Sequence[int], *, memory: int) -> Position:
    """Ingest `log` from the stored position on, in chunks that end at `ends`; a fresh Ingest stands for a restart."""
    ingest = Ingest(engine, policy, memory=memory)
    position = ingest.position("log")
    for end in [*sorted(ends), len(log)]:
        if end > position.offset:
            folded = ingest.fold(log[position.offset : end])
            position = ingest.commit(folded, "log", position, end, rejected=0)
    return position


def apart(policy: Policy) -> Policy:
    """The same rules for each scene by itself."""
    return msgspec.structs.replace(policy, scenes=Scenes.APART)


either = policies | policies.map(apart)
