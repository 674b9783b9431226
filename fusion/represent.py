"""Writes the UIF user vector as of every partition to the store, under the artifact's id."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from sqlalchemy import Engine, select

from fusion.artifact import Artifact
from fusion.encode import Batch
from fusion.knowledge import Knowledge, read_knowledge
from fusion.log import Array
from fusion.tables import representations, vectors
from fusion.uif import InterestFusion
from interest.errors import ArtifactError
from interest.sql import upsert, writing

USERS_PER_COMMIT = 500


def represent(engine: Engine, artifact: Artifact, advance: Callable[[int], None] = lambda _: None) -> int:
    """Write the artifact's rows of `representations`; return how many partitions have one now.

    The vector of partition k has seen the user's partitions up to k, as every moment between k and k + 1 does.
    Idempotent, in transactions of a few hundred users; where a text was replaced, so are the vectors that saw it.
    Raises ArtifactError for a model trained without interests.
    """
    fusion = getattr(artifact.model, "fusion", None)
    if fusion is None:
        raise ArtifactError(f"artifact {artifact.id} was trained with --no-interest; it has no user vectors to store")
    spec, done = artifact.spec, 0
    with engine.connect() as connection:
        wanted = (
            vectors.c.generation == spec.generation,
            vectors.c.prompt_version == spec.prompt_version,
            vectors.c.encoder == spec.encoder,
        )
        users = sorted(connection.execute(select(vectors.c.user_id).where(*wanted).distinct()).scalars())
    for start in range(0, len(users), USERS_PER_COMMIT):
        own = users[start : start + USERS_PER_COMMIT]
        with writing(engine) as connection:
            knowledge = read_knowledge(
                connection, own, generation=spec.generation, prompt_version=spec.prompt_version, encoder=spec.encoder
            )
            fused = user_vectors(cast(InterestFusion, fusion), knowledge, spec.partitions)
            owner = np.repeat(np.arange(len(own)), np.diff(knowledge.starts))
            rows = [
                {
                    "user_id": own[user],
                    "generation": spec.generation,
                    "index": int(index),
                    "artifact": artifact.id,
                    "vector": vector.astype("<f4").tobytes(),
                }
                for user, index, vector in zip(owner, knowledge.index, fused, strict=True)
            ]
            upsert(connection, representations, rows)
        done += len(rows)
        advance(len(rows))
    return done


@torch.no_grad()
def user_vectors(fusion: InterestFusion, knowledge: Knowledge, slots: int) -> Array:
    """(Q, 32) float32: for every partition, the user vector that has seen it and up to `slots` - 1 before it."""
    quantity = len(knowledge.index)
    owner = np.repeat(np.arange(len(knowledge.starts) - 1), np.diff(knowledge.starts))
    seen = np.arange(quantity)[:, None] - np.arange(slots)
    seen[seen < knowledge.starts[owner][:, None]] = -1
    fusion.eval()
    unused = torch.zeros((quantity, 0), dtype=torch.int32)
    batch = Batch(
        item_row=unused,
        item_categories=unused,
        item_attributes=unused,
        target=unused,
        history=unused,
        value=unused,
        label=unused,
        action=unused,
        gap=unused,
        profile=unused,
        dense=unused.float(),
        texts=torch.from_numpy(knowledge.vectors.astype(np.float32)),
        partitions=torch.from_numpy(seen.astype(np.int32)),
    )
    return np.asarray(fusion.user(batch).numpy())
