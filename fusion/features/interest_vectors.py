"""Vectors of what the LLM wrote about every closed partition, as arrays, and which of them a moment may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, or_, select

from fusion.features.impressions import Impressions
from fusion.features.log import USERS_AT_ONCE, Array
from fusion.tables import vectors
from interest.errors import InputError
from interest.store.tables import behaviors, partitions
from interest.types import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class InterestVectors:
    """Q partitions with text vectors, together by user and oldest first."""

    starts: Array  # (U + 1,) int64: the partitions of user u are starts[u]..starts[u + 1] - 1
    index: Array  # (Q,) int64, the store's own
    last_seq: Array  # (Q,) int64: of the last behaviour before the partition was closed, see `_closed_after`
    closed_at: Array  # (Q,) float64
    vectors: Array  # (Q, 2 d) float16: summary, then shift (zeros for a user's first partition)
    generation: int = 0  # these three: of which partitions, by which prompts and text encoder
    prompt_version: str = ""
    encoder: str = ""

    @property
    def width(self) -> int:
        return int(self.vectors.shape[1])

    def visible(self, impressions: Impressions, slots: int) -> Array:
        """(n, slots) int64 into the partitions, newest first, -1 for none: last_seq < s and closed_at <= t."""
        out = np.full((len(impressions), slots), -1, np.int64)
        if not len(self.last_seq) or not len(impressions):
            return out
        span = max(int(self.last_seq.max()), int(impressions.seq.max())) + 2
        owner = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        stop = np.searchsorted(owner * span + self.last_seq, impressions.user.astype(np.int64) * span + impressions.seq)
        candidate = stop[:, None] - 1 - np.arange(slots)
        mask = candidate >= self.starts[impressions.user][:, None]
        mask &= self.closed_at[np.maximum(candidate, 0)] <= impressions.at[:, None]
        out[mask] = candidate[mask]
        return out


def no_interest_vectors(users: int, **source: Any) -> InterestVectors:
    none = np.empty(0, np.int64)
    return InterestVectors(
        starts=np.zeros(users + 1, np.int64),
        index=none,
        last_seq=none,
        closed_at=none,
        vectors=np.zeros((0, 0), np.float16),
        **source,
    )


def read_interest_vectors(
    connection: Connection, users: Sequence[str], *, generation: int, prompt_version: str, encoder: str
) -> InterestVectors:
    """The partition vectors of `users` (in that order), of one generation, prompt version and text encoder."""
    query = _select(generation, prompt_version, encoder)
    rows: list[Any] = []
    if len(users) > USERS_AT_ONCE:
        rows = list(connection.execute(query))
    else:
        rows = list(connection.execute(query.where(partitions.c.user_id.in_(users))))
    number = {user: i for i, user in enumerate(users)}
    numbered = [(number[row[0]], *row[1:]) for row in rows if row[0] in number]
    ordered = sorted(numbered, key=lambda row: (row[0], row[2], row[1]))
    return _of_rows(ordered, len(users), generation=generation, prompt_version=prompt_version, encoder=encoder)


def read_newest_vectors(
    connection: Connection,
    user_id: str,
    *,
    before: int,
    most: int,
    generation: int,
    prompt_version: str,
    encoder: str,
) -> InterestVectors:
    """One user's newest partitions that have vectors, at most `most`, of behaviours before a sequence number."""
    own = (partitions.c.user_id == user_id, partitions.c.generation == generation, _closed_after() < before)
    query = _select(generation, prompt_version, encoder).where(*own).limit(most)
    apart = select(partitions.c.user_id).where(partitions.c.user_id == user_id, partitions.c.scene.is_not(None))
    if connection.execute(apart.limit(1)).first() is not None:
        query = query.order_by(_closed_after().desc())
    query = query.order_by(partitions.c.index.desc())  # of all scenes: the key's order, so that no others are read
    rows = [(0, *row[1:]) for row in connection.execute(query)][::-1]
    return _of_rows(rows, 1, generation=generation, prompt_version=prompt_version, encoder=encoder)


def _select(generation: int, prompt_version: str, encoder: str) -> Select[Any]:
    """User, index, last_seq, closed_at, summary and shift of partitions with such vectors."""
    columns = (partitions.c.user_id, partitions.c.index, _closed_after(), partitions.c.closed_at)
    same = [vectors.c[name] == partitions.c[name] for name in ("user_id", "generation", "index")]
    wanted = (
        vectors.c.generation == generation,
        vectors.c.prompt_version == prompt_version,
        vectors.c.encoder == encoder,
    )
    return select(*columns, vectors.c.summary, vectors.c.shift).join(vectors, and_(*same)).where(*wanted)


def _closed_after() -> ColumnElement[int]:
    """The sequence number after which a partition was closed: of the behaviour before the one that closed it.

    That is its own last one; but where scenes are kept apart, what closes it by time or by tokens is the next behaviour
    of the scene, and until then the user's behaviours in other scenes have not seen it. Where none has come yet, a
    sweep has closed it: whatever comes now sees it.
    """
    mine = behaviors.c.user_id == partitions.c.user_id
    later = select(behaviors.c.seq - 1).where(mine, behaviors.c.seq > partitions.c.last_seq)
    of_this_scene = func.coalesce(behaviors.c.scene, "") == partitions.c.scene
    closing = later.where(of_this_scene).order_by(behaviors.c.seq).limit(1).scalar_subquery()
    newest = select(func.max(behaviors.c.seq)).where(mine).scalar_subquery()
    at_once = or_(partitions.c.scene.is_(None), partitions.c.reason == Reason.COUNT)
    return case((at_once, partitions.c.last_seq), else_=func.coalesce(closing, newest))


def _of_rows(ordered: Sequence[tuple[Any, ...]], users: int, **source: Any) -> InterestVectors:
    """From rows of `_select` with numbers for users, by user and index."""
    if not ordered:
        return no_interest_vectors(users, **source)
    return InterestVectors(
        starts=np.searchsorted(np.array([row[0] for row in ordered]), np.arange(users + 1)).astype(np.int64),
        index=np.array([row[1] for row in ordered], np.int64),
        last_seq=np.array([row[2] for row in ordered], np.int64),
        closed_at=np.array([row[3] for row in ordered]),
        vectors=np.stack([_both(summary, shift) for *_, summary, shift in ordered]),
        **source,
    )


def _both(summary: bytes, shift: bytes | None) -> Array:
    first = np.frombuffer(summary, "<f2")
    second = np.zeros_like(first) if shift is None else np.frombuffer(shift, "<f2")
    return np.concatenate([first, second])


def has_vectors(connection: Connection, generation: int) -> bool:
    """Whether the store holds any interest vectors of this partitioning of the log."""
    query = select(vectors.c.user_id).where(vectors.c.generation == generation).limit(1)
    return connection.execute(query).first() is not None


def choose_vectors(
    connection: Connection, *, generation: int, prompt_version: str | None, encoder: str | None
) -> tuple[str, str]:
    """The (prompt version, encoder) whose vectors the store holds: the only one, or the one that was asked for."""
    query = select(vectors.c.prompt_version, vectors.c.encoder).where(vectors.c.generation == generation).distinct()
    stored = sorted((row[0], row[1]) for row in connection.execute(query))
    fitting = [pair for pair in stored if prompt_version in (None, pair[0]) and encoder in (None, pair[1])]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        listed = "; ".join(f"--prompt-version {version} --encoder {name}" for version, name in fitting)
        raise InputError(f"the store holds vectors of several prompt versions or encoders; choose one: {listed}")
    if stored:
        listed = "; ".join(f"{version}, {name}" for version, name in stored)
        raise InputError(f"no vectors of prompt version {prompt_version}, encoder {encoder}; the store holds: {listed}")
    raise InputError(
        "the store holds no interest vectors; run `interestream learn` and `interestream fuse` first "
        "(`interestream train` does without them by --interest no)"
    )
