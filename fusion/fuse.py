"""Interest texts become vectors, vectors become users' representations: one row of each for every partition.

Each chunk is one transaction and the work left is what the store lacks, so a run that was killed goes on where it
stopped, and the store ends the same in one run or in ten: a partition whose interest came late (after newer ones were
pooled) has the newer ones pooled again. Before anything is trained a representation is the pool of `fusion.pool`, under
the artifact id "pooled:<encoder id>:<prompt version>".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Row, Select, and_, func, select, tuple_

from fusion.pool import HALF_LIFE, Vectors, partition_vector, pool, window
from fusion.tables import representations, vectors
from interest.sql import insert_new, upsert, writing
from interest.tables import interests

CHUNK = 64  # interests a transaction: a second or two of work on one core, and 100 KB of vectors
USERS = 200  # users a transaction of the pool


class Encoder(Protocol):
    @property
    def id(self) -> str: ...
    def __call__(self, texts: list[str], /) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Fused:
    """What one run added."""

    encoded: int  # interests
    texts: int  # distinct texts encoded for them, chunk by chunk
    pooled: int  # representations
    artifacts: tuple[str, ...]  # their artifact ids


def fuse(
    engine: Engine,
    encoder: Encoder,
    prompt_version: str | None = None,
    *,
    half_life: float = HALF_LIFE,
    advance: Callable[[int], None] = lambda _: None,
) -> Fused:
    """Bring `vectors` and the pooled `representations` up to the store's interests (of one prompt version, or of all).

    `advance` is called with the interests encoded. `half_life` is in partitions; one other than the default is named in
    the artifact id.
    """
    window(half_life)  # an impossible one fails before any work
    encoded = texts = 0
    for rows in _chunks(engine, encoder.id, prompt_version):
        texts += _encode(engine, encoder, rows)
        encoded += len(rows)
        advance(len(rows))
    with engine.connect() as connection:
        query = select(interests.c.prompt_version).distinct()
        versions = [prompt_version] if prompt_version else sorted(connection.scalars(query))
    pooled = sum(_pool(engine, encoder.id, version, half_life) for version in versions)
    return Fused(encoded, texts, pooled, tuple(pooled_id(encoder.id, version, half_life) for version in versions))


def pooled_id(encoder_id: str, prompt_version: str, half_life: float = HALF_LIFE) -> str:
    """The artifact id of pooled representations."""
    return f"pooled:{encoder_id}:{prompt_version}" + ("" if half_life == HALF_LIFE else f":half-life={half_life:g}")


def waiting(engine: Engine, encoder_id: str, prompt_version: str | None = None) -> int:
    """How many interests have no vectors of this encoder yet."""
    with engine.connect() as connection:
        missing = _missing(encoder_id, prompt_version).subquery()
        return connection.scalar(select(func.count()).select_from(missing)) or 0


_KEY = ("user_id", "generation", "index", "prompt_version")


def _missing(encoder_id: str, prompt_version: str | None) -> Select[Any]:
    same = and_(*(vectors.c[name] == interests.c[name] for name in _KEY), vectors.c.encoder == encoder_id)
    columns = [interests.c[name] for name in (*_KEY, "summary", "shift")]
    query = select(*columns).outerjoin(vectors, same).where(vectors.c.user_id.is_(None), interests.c.summary != "")
    return query.where(interests.c.prompt_version == prompt_version) if prompt_version else query


def _chunks(engine: Engine, encoder_id: str, prompt_version: str | None) -> Iterator[list[Row[Any]]]:
    """The interests without vectors, in order of their key; each chunk starts after the last one's key."""
    key = [interests.c[name] for name in _KEY]
    query = _missing(encoder_id, prompt_version).order_by(*key).limit(CHUNK)
    after: Row[Any] | None = None
    while True:
        with engine.connect() as connection:
            chunk = query if after is None else query.where(tuple_(*key) > tuple_(*after[:4]))
            rows = list(connection.execute(chunk))
        if not rows:
            return
        yield rows
        after = rows[-1]


def _encode(engine: Engine, encoder: Encoder, rows: list[Row[Any]]) -> int:
    """Encode one chunk's summaries and shifts, equal texts once, outside any transaction; then write it in one."""
    texts = list(dict.fromkeys(text for row in rows for text in (row.summary, row.shift) if text.strip()))
    encoded = encoder(texts).astype("<f2")
    packed = {text: vector.tobytes() for text, vector in zip(texts, encoded, strict=True)}
    added = [
        dict(zip(_KEY, row[:4], strict=True))
        | {"encoder": encoder.id, "summary": packed[row.summary], "shift": packed.get(row.shift)}
        for row in rows
        if row.summary in packed
    ]
    with writing(engine) as connection:
        asked = {row["user_id"] for row in added}
        known = set(connection.scalars(select(interests.c.user_id).where(interests.c.user_id.in_(asked)).distinct()))
        insert_new(connection, vectors, [row for row in added if row["user_id"] in known])  # the others were forgotten
    return len(texts)


def _pool(engine: Engine, encoder_id: str, prompt_version: str, half_life: float) -> int:
    """Write the pooled representations that one prompt version lacks."""
    artifact = pooled_id(encoder_id, prompt_version, half_life)
    mine = and_(vectors.c.encoder == encoder_id, vectors.c.prompt_version == prompt_version)
    same = and_(
        *(representations.c[name] == vectors.c[name] for name in _KEY[:3]), representations.c.artifact == artifact
    )
    user = (vectors.c.user_id, vectors.c.generation)
    query = (
        select(*user, func.min(vectors.c.index).label("first"))  # the oldest partition without a representation
        .outerjoin(representations, same)
        .where(mine, representations.c.user_id.is_(None))
        .group_by(*user)
        .order_by(*user)
        .limit(USERS)
    )
    added = 0
    after: tuple[str, int] | None = None
    while True:
        with writing(engine) as connection:
            chunk = query if after is None else query.where(tuple_(*user) > tuple_(*after))
            users = list(connection.execute(chunk))
            if not users:
                return added
            for user_id, generation, first in users:
                rows = _pooled_rows(connection, (user_id, generation), first, mine, half_life)
                upsert(connection, representations, [row | {"artifact": artifact} for row in rows])
                added += len(rows)
        after = (users[-1].user_id, users[-1].generation)


def _pooled_rows(
    connection: Connection, user: tuple[str, int], first: int, mine: Any, half_life: float
) -> list[dict[str, Any]]:
    """One user's representations from partition `first` on; reads only the partitions in reach of their windows."""
    user_id, generation = user
    query = (
        select(vectors.c.index, vectors.c.summary, vectors.c.shift)
        .where(vectors.c.user_id == user_id, vectors.c.generation == generation, mine)
        .where(vectors.c.index > first - window(half_life))
        .order_by(vectors.c.index)
    )
    found = connection.execute(query).all()
    indexes = np.array([index for index, _, _ in found], dtype=np.int64)
    parts = np.stack([partition_vector(_unpack(summary), _unpack(shift)) for _, summary, shift in found])
    return [
        {
            "user_id": user_id,
            "generation": generation,
            "index": int(index),
            "vector": pool(parts, indexes, int(index), half_life).astype("<f4").tobytes(),
        }
        for index in indexes
        if index >= first
    ]


@overload
def _unpack(packed: bytes) -> Vectors: ...
@overload
def _unpack(packed: None) -> None: ...
def _unpack(packed: bytes | None) -> Vectors | None:
    return None if packed is None else np.frombuffer(packed, dtype="<f2").astype(np.float32)
