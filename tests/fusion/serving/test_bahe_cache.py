"""Kept users and items of BAHE: whatever mixture of kept and new a request meets, its scores are a fresh Scorer's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from fusion.bank.vectors import read_keys, remove, remove_keys
from fusion.encoders.recipe import Recipe
from fusion.features.dataset import DatasetConfig
from fusion.features.log import Log
from fusion.serving.score import Pair, Scorer
from fusion.training.artifact import Artifact, load_artifact
from fusion.training.bahe import begin_with_llm, newest
from fusion.training.experiment import run
from tests.support.bahe_world import QUICK, THREE, config_of, ready
from tests.support.ctr_world import DAY, TASKS, fill, random_rows

CLOSE = 1e-5  # float32 sums in another order


@pytest.fixture
def world(store: Engine) -> Log:
    return fill(store, random_rows(6, each=15), interests=True)


@pytest.fixture(params=["recent", "three, interest"])
def loaded(
    request: pytest.FixtureRequest, world: Log, store: Engine, llm: Path, recipe: Recipe, tmp_path: Path
) -> Artifact:
    more = {} if request.param == "recent" else {"sequences": THREE, "interest": True}
    data = ready(store, recipe, llm, tmp_path / "banks", DatasetConfig(tasks=TASKS, history=10, interest=bool(more)))
    own = config_of(llm, recipe, until=newest(data), **more)
    run(data, own, QUICK, split="global", folder=tmp_path / "bahe", prepare=lambda model: begin_with_llm(model, own))
    return load_artifact(tmp_path / "bahe")


def cross(users: list[str], items: range) -> list[Pair]:
    return [(user, f"i{i}") for user in users for i in items]


def test_a_scorer_asked_again_with_some_of_the_same_scores_as_a_fresh_one(
    world: Log, store: Engine, loaded: Artifact
) -> None:
    now = float(world.at.max()) + DAY
    kept = Scorer(loaded)
    requests = [
        cross(["u1", "u2"], range(3, 8)),
        cross(["u2", "u3"], range(10)),  # a user and items that are kept, among new ones before and after
        [("u1", "i4")],
        [("nobody", "i9"), ("nobody", "stranger"), ("u4", "stranger"), ("u1", "i2"), ("u4", "i30")],
        cross(["u4", "u1", "nobody", "u2"], range(40))[::-1],
    ]
    with store.connect() as connection:
        for pairs in requests:
            found, fresh = kept(connection, pairs, now), Scorer(loaded)(connection, pairs, now)
            np.testing.assert_allclose(found, fresh, atol=CLOSE)
            assert len(np.unique(fresh.round(7))) > len(pairs) // 2
    assert kept.states is not None
    assert kept.states.made == 5


@pytest.mark.parametrize("limit", [2, 10_000])
def test_a_request_of_several_parts_scores_as_its_pairs_one_by_one(
    world: Log, store: Engine, loaded: Artifact, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Later parts meet items that earlier ones left behind; with little kept, some of them only."""
    users, now = [f"u{n}" for n in range(9)], float(world.at.max()) + DAY
    pairs = [(user, f"i{(3 * n + k) % 40}") for n, user in enumerate(users) for k in range(5)]
    with store.connect() as connection:
        alone = [Scorer(loaded)(connection, [pair], now)[0] for pair in pairs]
        monkeypatch.setattr("fusion.models.bahe.collate.VECTORS_AT_ONCE", 36)  # two users a part, or six
        monkeypatch.setattr("fusion.models.bahe.collate.SCORES_AT_ONCE", 8)
        kept = Scorer(loaded)
        assert kept.states is not None
        kept.states._limit = limit
        np.testing.assert_allclose(kept(connection, pairs, now), alone, atol=CLOSE)
        np.testing.assert_allclose(kept(connection, pairs[::-1], now), alone[::-1], atol=CLOSE)


def test_scores_are_the_same_with_and_without_a_bank(world: Log, store: Engine, loaded: Artifact) -> None:
    """What the bank lacks is computed to the last bit as it was, also where half of it is there."""
    now, pairs = float(world.at.max()) + DAY, cross(["u1", "u2", "nobody"], range(12))
    bank = loaded.config.model.recipe.id
    with store.connect() as connection:
        filled = Scorer(loaded)(connection, pairs, now)
        half = sorted(read_keys(connection, bank))[::2]
    assert len(half) > 50
    remove_keys(store, bank, half, {})
    with store.connect() as connection:
        np.testing.assert_array_equal(Scorer(loaded)(connection, pairs, now), filled)
    remove(store, bank)
    with store.connect() as connection:
        np.testing.assert_array_equal(Scorer(loaded)(connection, pairs, now), filled)
