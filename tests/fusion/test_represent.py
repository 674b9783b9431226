"""User vectors in the store are those that the model sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sqlalchemy import Engine, select

from fusion.artifact import load_artifact
from fusion.represent import represent
from fusion.score import current_samples
from fusion.tables import representations


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
