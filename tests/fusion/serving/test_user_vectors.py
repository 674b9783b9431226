"""User vectors in the store are those that the model sees."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from sqlalchemy import Engine, delete, select

from fusion.interests.pooled_rows import History, unrepresented
from fusion.serving.score import current_samples
from fusion.serving.user_vectors import represent, view_of, write_fused
from fusion.tables import representations
from fusion.training.artifact import load_artifact
from interest.store.sql import writing


def test_every_partition_gets_the_vector_the_model_sees_and_a_second_run_adds_nothing(
    store: Engine, artifact: Path
) -> None:
    loaded = load_artifact(artifact)
    stored = represent(store, loaded)
    assert stored == 30 * 5
    assert represent(store, loaded) == stored
    with store.connect() as connection:
        rows = list(connection.execute(select(representations)).mappings())
        samples = current_samples(connection, loaded.spec, loaded.statistics, [("u4", "i1")], 1e9)
    assert len(rows) == stored
    newest = max((row for row in rows if row["user_id"] == "u4"), key=lambda row: row["index"])
    with torch.no_grad():
        seen = loaded.model.fusion.user(samples.batch(np.array([0])))[0].numpy()
    np.testing.assert_allclose(np.frombuffer(newest["vector"], "<f4"), seen, atol=1e-6)
    assert newest["artifact"] == loaded.id


def test_a_vector_is_the_same_to_the_bit_whatever_it_is_made_with(store: Engine, artifact: Path) -> None:
    """User by user and partition by partition, as the stream does, gives the rows of all at once."""
    loaded = load_artifact(artifact)
    represent(store, loaded)

    def rows() -> list[tuple[object, ...]]:
        with store.connect() as connection:
            return sorted(tuple(row) for row in connection.execute(select(representations)))

    whole = rows()
    with writing(store) as connection:
        connection.execute(delete(representations))
        keys = [(History(row[0], row[1]), row[2]) for row in whole]
        random.Random(1).shuffle(keys)
        for history, index in keys:
            write_fused(connection, loaded, None, {history: index})
    assert rows() == whole


def test_what_users_lack_is_told_by_the_rows(store: Engine, artifact: Path) -> None:
    loaded = load_artifact(artifact)
    represent(store, loaded)
    view = view_of(loaded)
    gone = (representations.c.user_id == "u3") & (representations.c.index == 2)
    with writing(store) as connection:
        assert unrepresented(connection, view, loaded.id, ["u3", "u4"]) == {}
        connection.execute(delete(representations).where(gone))
        assert unrepresented(connection, view, loaded.id, ["u3", "u4"]) == {History("u3", 0): 2}
        assert write_fused(connection, loaded, None, {History("u3", 0): 2}) == 3  # partitions 2, 3 and 4 have seen it
        assert write_fused(connection, loaded, None, {History("u3", 1): 0}) == 0  # another generation
