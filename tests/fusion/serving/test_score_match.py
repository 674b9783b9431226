"""Scoring with match scalars: what training reads, folded or not, with texts and without, as the catalogue is now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from fusion.encoders.item_text import ITEM_TEMPLATE
from fusion.features.dataset import DatasetConfig, read_dataset
from fusion.features.match.features import MatchSpec
from fusion.features.splits import TEST
from fusion.interests.item_vectors import encode_items, texts_without_vectors
from fusion.models.din import DinConfig
from fusion.models.protocol import ModelConfig
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4CtrConfig
from fusion.serving.score import Scorer
from fusion.training import experiment
from fusion.training.artifact import Artifact, load_artifact
from fusion.training.train import TrainConfig, predict
from interest.errors import ArtifactError
from interest.store.sql import item_row, upsert
from interest.store.tables import items
from interest.types import Item
from tests.support.ctr_world import TASKS, fill, random_rows
from tests.support.hashed_encoder import HashedEncoder

DIN, SRP = DinConfig(width=8), Srp4CtrConfig(encoder=FgBertConfig(positions=10 + 15 - 1, width=16))


def trained(
    store: Engine, folder: Path, config: ModelConfig
) -> tuple[Artifact, float, list[tuple[str, str]], np.ndarray]:
    """An artifact; the time of the last event; the pairs of that time and what the trained model says of them."""
    fill(store, random_rows(6), interests=True)
    encoder = HashedEncoder()
    with store.connect() as connection:
        texts = texts_without_vectors(connection, encoder.id, ITEM_TEMPLATE)
    encode_items(store, encoder, texts)
    spec = MatchSpec(parts=("text", "places", "support", "interests"), encoder=encoder.id, template=ITEM_TEMPLATE)
    data = DatasetConfig(tasks=TASKS, history=10, min_history=2, interest=True, match=spec)
    with store.connect() as connection:
        dataset = read_dataset(connection, data)
    experiment.run(dataset, config, TrainConfig(epochs=1), split="global", folder=folder)
    loaded, log = load_artifact(folder), dataset.log
    last = dataset.of(TEST)[np.argmax(log.at[dataset.rows[dataset.of(TEST)]])]
    row = dataset.rows[last]
    pair = (log.users[log.user[row]], log.items[log.item[row]])
    return loaded, float(log.at[row]), [pair], predict(loaded.model, dataset.samples, np.array([last]))


@pytest.mark.parametrize("config", [DIN, SRP], ids=["din", "srp4ctr"])
def test_scores_are_those_of_training_folded_and_not(store: Engine, tmp_path: Path, config: ModelConfig) -> None:
    loaded, now, [(user, item)], expected = trained(store, tmp_path / "out", config)
    assert loaded.space is not None
    assert loaded.spec.dense[-1] == "interest_most"
    many = [(user, f"i{i}") for i in range(40)] + [(user, "nothing"), ("nobody", item)]
    scorer = Scorer(loaded, as_of_request=True)
    with store.connect() as connection:
        # the moment of the last event, which is not its own past
        first = scorer(connection, [(user, item)], np.nextafter(now, 0))
        together = scorer(connection, many, now + 1)
        alone = np.array([Scorer(loaded, as_of_request=True)(connection, [pair], now + 1)[0] for pair in many])
        order = np.random.default_rng(0).permutation(len(many))
        moved = scorer(connection, [many[i] for i in order], now + 1)
    np.testing.assert_allclose(first, expected, atol=1e-4)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(moved, together[order], atol=1e-5)
    assert np.isfinite(together).all()
    assert together[:40].std() > 0


def test_a_catalogue_that_changes_is_read_as_it_is_and_a_missing_space_is_refused(
    store: Engine, tmp_path: Path
) -> None:
    loaded, now, [pair], _ = trained(store, tmp_path / "out", DIN)
    scorer = Scorer(loaded)
    with store.connect() as connection:
        before = scorer(connection, [pair], now + 1)
    with store.begin() as connection:
        upsert(connection, items, [item_row(Item(item_id=pair[1], title="Another title", categories=("Action",)))])
    with store.connect() as connection:
        after = Scorer(loaded)(connection, [pair], now + 1)
    assert np.isfinite(after).all()
    assert after[0] != before[0]
    (tmp_path / "out" / "space.safetensors").unlink()
    with pytest.raises(ArtifactError, match="lacks space"):
        load_artifact(tmp_path / "out")
