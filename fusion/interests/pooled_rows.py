"""Pooled representations of given users (fusion/interests/pool.py), computed from the store and written to it.

Before anything is trained a user's representation is this pool, under the artifact id
"pooled:<encoder id>:<prompt version>".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, func, select
from sqlalchemy import text as sql

from fusion.interests.pool import HALF_LIFE, partition_vector, pool, window
from fusion.tables import representations, vectors
from interest.store.sql import upsert

USERS_AT_ONCE = 500  # below every driver's limit on parameters


class History(NamedTuple):
    """One user's partitions of one generation."""

    user_id: str
    generation: int


FirstPartitions = Mapping[History, int]  # the first partition of a user whose representation is to be made


class VectorSource(NamedTuple):
    """The vectors that a representation is made of: whose texts, by which encoder."""

    encoder: str
    prompt_version: str

    @property
    def vectors(self) -> Any:
        return and_(vectors.c.encoder == self.encoder, vectors.c.prompt_version == self.prompt_version)


def pooled_id(encoder_id: str, prompt_version: str, half_life: float = HALF_LIFE) -> str:
    """The artifact id of pooled representations."""
    return f"pooled:{encoder_id}:{prompt_version}" + ("" if half_life == HALF_LIFE else f":half-life={half_life:g}")


def lock_users(connection: Connection, users: Iterable[str]) -> None:
    """Lock these users' representations against other writers until the transaction ends.

    Two at once would each read the vectors without the other's, and the later one to write would leave a pool that
    lacks a partition. SQLite has one writer at a time anyway.
    """
    if connection.dialect.name == "postgresql":
        query = sql("select pg_advisory_xact_lock(hashtextextended(:user, 0))")
        for user in sorted(set(users)):  # all in one order: no two wait for each other
            connection.execute(query, {"user": f"interestream.representations:{user}"})


def write_pooled(connection: Connection, view: VectorSource, half_life: float, firsts: FirstPartitions) -> int:
    """Write the pooled representations of each history from its first partition named; return how many."""
    artifact, rows = pooled_id(view.encoder, view.prompt_version, half_life), []
    for history, first in firsts.items():
        indexes, summaries, shifts = read_vectors(connection, view, history, first - window(half_life) + 1)
        if not len(indexes):
            continue
        pairs = zip(summaries, shifts, strict=True)
        parts = np.stack([partition_vector(summary, shift) for summary, shift in pairs])
        rows += [
            row_of(history, index, artifact, pool(parts, indexes, index, half_life))
            for index in indexes.tolist()
            if index >= first
        ]
    upsert(connection, representations, rows)
    return len(rows)


def read_vectors(
    connection: Connection, view: VectorSource, history: History, first: int
) -> tuple[NDArray[np.int64], list[NDArray[np.float32]], list[NDArray[np.float32] | None]]:
    """A history's partitions that have vectors, from `first` on, oldest first: indexes, summaries' and shifts'."""
    query = (
        select(vectors.c.index, vectors.c.summary, vectors.c.shift)
        .where(vectors.c.user_id == history.user_id, vectors.c.generation == history.generation, view.vectors)
        .where(vectors.c.index >= first)
        .order_by(vectors.c.index)
    )
    rows = connection.execute(query).all()
    return (
        np.array([index for index, _, _ in rows], dtype=np.int64),
        [_unpack(summary) for _, summary, _ in rows],
        [None if shift is None else _unpack(shift) for _, _, shift in rows],
    )


def row_of(history: History, index: int, artifact: str, vector: NDArray[np.float32]) -> dict[str, Any]:
    """A row of `representations`."""
    return {**history._asdict(), "index": index, "artifact": artifact, "vector": vector.astype("<f4").tobytes()}


def unrepresented(
    connection: Connection, view: VectorSource, artifact: str, users: Iterable[str], *, common: bool = False
) -> dict[History, int]:
    """By history, the oldest partition that has vectors and no representation by `artifact`.

    common: one without a vector in the artifact's common space counts as none, as an earlier version left it.
    """
    key = (vectors.c.user_id, vectors.c.generation)
    same = and_(
        *(representations.c[name] == vectors.c[name] for name in ("user_id", "generation", "index")),
        representations.c.artifact == artifact,
    )
    query = (
        select(*key, func.min(vectors.c.index))
        .outerjoin(representations, same)
        .where(view.vectors, (representations.c.common if common else representations.c.user_id).is_(None))
        .group_by(*key)
        .order_by(*key)
    )
    oldest: dict[History, int] = {}
    for page in _pages(users):
        for user_id, generation, first in connection.execute(query.where(vectors.c.user_id.in_(page))):
            oldest[History(user_id, generation)] = first
    return oldest


# A walk over the users, a few index seeks each. To look at the newest partition is enough: vectors and the pools that
# they change are written in one transaction, so an older gap comes only with one at the end.
_BEHIND = sql("""
    with recursive people (id) as (
        select min(user_id) from vectors
        union all
        select (select min(user_id) from vectors where user_id > people.id) from people where people.id is not null
    ), newest (id, generation, "index") as (
        select people.id, own.generation, own."index"
        from people join vectors as own on own.user_id = people.id
        where own.encoder = :encoder and own.prompt_version = :version and (own.generation, own."index") = (
            select it.generation, it."index" from vectors as it
            where it.user_id = people.id and it.encoder = :encoder and it.prompt_version = :version
            order by it.generation desc, it."index" desc limit 1
        )
    )
    select newest.id from newest
    left join representations as done on done.user_id = newest.id and done.generation = newest.generation
        and done."index" = newest."index" and done.artifact = :artifact
    where done.user_id is null
    order by newest.id
""")


def users_behind(connection: Connection, view: VectorSource, artifact: str) -> list[str]:
    """The users whose newest partition with vectors has no representation by `artifact`; reads no vector."""
    parameters = {"encoder": view.encoder, "version": view.prompt_version, "artifact": artifact}
    return list(connection.scalars(_BEHIND, parameters))


class Newest(NamedTuple):
    """A representation: whose, as of which partition, its vector, and the user's in the artifact's common space."""

    history: History
    partition: int
    vector: bytes
    common: bytes | None


def newest_of(connection: Connection, artifact: str, user_id: str) -> Newest | None:
    """A user's newest representation by `artifact`."""
    columns = (representations.c[name] for name in ("generation", "index", "vector", "common"))
    query = (
        select(*columns)
        .where(representations.c.user_id == user_id, representations.c.artifact == artifact)
        .order_by(representations.c.generation.desc(), representations.c.index.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    return None if row is None else Newest(History(user_id, row[0]), *row[1:])


def _pages(users: Iterable[str]) -> Iterator[Sequence[str]]:
    distinct = sorted(set(users))
    for start in range(0, len(distinct), USERS_AT_ONCE):
        yield distinct[start : start + USERS_AT_ONCE]


def _unpack(packed: bytes) -> NDArray[np.float32]:
    return np.frombuffer(packed, dtype="<f2").astype(np.float32)
