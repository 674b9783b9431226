"""Writes user vectors as of every partition to the store, under the artifact's id: UIF's, and the common space's.

A vector's bytes do not depend on what it is computed with: the network always sees ROWS windows of `slots` partitions,
the missing ones empty, so its matrix products keep their shape and order of summation (on one machine with one number
of threads). One user by one in the stream gives the rows of all users at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from sqlalchemy import Connection, Engine, select

from fusion.features.log import Array
from fusion.interests.pooled_rows import FirstPartitions, History, VectorSource, lock_users, read_vectors, row_of
from fusion.models.uif import InterestFusion
from fusion.serving.common_space import CommonSpace, common_space
from fusion.serving.common_vectors import NOT_PLACED, common_columns
from fusion.tables import representations, vectors
from fusion.training.artifact import Artifact
from interest.errors import ArtifactError
from interest.store.sql import upsert, writing

USERS_PER_COMMIT = 200
ROWS = 32  # user vectors computed together: more gain little on one core, and a lone one is padded up to this


def represent(engine: Engine, artifact: Artifact, advance: Callable[[int], None] = lambda _: None) -> int:
    """Write the artifact's rows of `representations`; return how many partitions have one now.

    The vector of partition k has seen the user's partitions up to k, as every moment between k and k + 1 does.
    Idempotent, in transactions of a few hundred users; where a text was replaced, so are the vectors that saw it.
    Raises ArtifactError for a model trained without interests.
    """
    fusion_of(artifact)
    common = common_space(artifact)
    view, generation = view_of(artifact), artifact.spec.generation
    with engine.connect() as connection:
        query = select(vectors.c.user_id).where(vectors.c.generation == generation, view.vectors).distinct()
        users = sorted(connection.scalars(query))
    done = 0
    for start in range(0, len(users), USERS_PER_COMMIT):
        own = users[start : start + USERS_PER_COMMIT]
        with writing(engine) as connection:
            lock_users(connection, own)
            count = write_fused(connection, artifact, common, {History(user, generation): 0 for user in own})
        done += count
        advance(count)
    return done


def fusion_of(artifact: Artifact) -> InterestFusion:
    """The network that makes user vectors. Raises ArtifactError where the model was trained without interests."""
    fusion = artifact.model.fusion
    if fusion is None:
        raise ArtifactError(
            f"artifact {artifact.id} was trained without interests and has no user vectors; "
            "train one with --interest yes"
        )
    return fusion


def view_of(artifact: Artifact) -> VectorSource:
    """The vectors that the artifact reads."""
    return VectorSource(artifact.spec.encoder, artifact.spec.prompt_version)


def write_fused(connection: Connection, artifact: Artifact, common: CommonSpace | None, firsts: FirstPartitions) -> int:
    """Write the artifact's representations of each history from its first partition named; return how many.

    common: the artifact's common space (`common_space`), in which each row has the user's vector too. Histories of
    another generation than the artifact's are left out.
    """
    view, slots, width = view_of(artifact), artifact.spec.partitions, artifact.spec.text_width
    places: list[tuple[History, int]] = []
    windows: list[Array] = []
    for history, first in firsts.items():
        if history.generation != artifact.spec.generation:
            continue
        start = _window_start(connection, view, history, first, slots)
        indexes, summaries, shifts = read_vectors(connection, view, history, start)
        texts = [_both(summary, shift) for summary, shift in zip(summaries, shifts, strict=True)]
        for place, index in enumerate(indexes.tolist()):
            if index >= first:
                places.append((history, index))
                windows.append(np.array(texts[max(place + 1 - slots, 0) : place + 1][::-1]))
    fused = user_vectors(fusion_of(artifact), windows, slots, width)
    placed = {} if common is None else common_columns(connection, common, places)
    rows = [
        row_of(history, index, artifact.id, vector) | placed.get((history, index), NOT_PLACED)
        for (history, index), vector in zip(places, fused, strict=True)
    ]
    upsert(connection, representations, rows)
    return len(rows)


@torch.no_grad()
def user_vectors(fusion: InterestFusion, windows: Sequence[Array], slots: int, width: int) -> Array:
    """(n, 32) float32 from n windows (1 to `slots`, width) float32: what each user vector has seen, newest first."""
    fusion.eval()
    out = np.empty((len(windows), fusion.none.shape[0]), np.float32)
    for start in range(0, len(windows), ROWS):
        texts = np.zeros((ROWS, slots, width), np.float32)
        seen = np.full((ROWS, slots), -1, np.int32)
        some = windows[start : start + ROWS]
        for row, own in enumerate(some):
            texts[row, : len(own)] = own
            seen[row, : len(own)] = row * slots + np.arange(len(own))
        made = fusion.user_vector(torch.from_numpy(texts.reshape(-1, width)), torch.from_numpy(seen))
        out[start : start + len(some)] = made.numpy()[: len(some)]
    return out


def _both(summary: Array, shift: Array | None) -> Array:
    return np.concatenate([summary, np.zeros_like(summary) if shift is None else shift])


def _window_start(connection: Connection, view: VectorSource, history: History, first: int, slots: int) -> int:
    """The oldest partition that the user vector of partition `first` sees: `slots` - 1 before it that have vectors."""
    query = (
        select(vectors.c.index)
        .where(vectors.c.user_id == history.user_id, vectors.c.generation == history.generation, view.vectors)
        .where(vectors.c.index < first)
        .order_by(vectors.c.index.desc())
        .limit(slots - 1)
    )
    return min(connection.scalars(query), default=first)
