"""A trained artifact, and a tiny LLM with the recipe of its vectors, for the tests of what is done with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from fusion.encoders.recipe import Recipe
from fusion.encoders.split_llm import recipe_of
from fusion.features.dataset import DatasetConfig, read_dataset
from fusion.models.din import DinConfig
from fusion.training.experiment import run
from fusion.training.train import TrainConfig
from tests.support.ctr_world import TASKS, fill, random_rows
from tests.support.tiny_llm import save_llm


@pytest.fixture
def artifact(store: Engine, tmp_path: Path) -> Path:
    """A DIN with interests, trained on a store of 30 users."""
    fill(store, random_rows(6), interests=True)
    with store.connect() as connection:
        data = read_dataset(connection, DatasetConfig(tasks=TASKS, history=10, interest=True))
    run(data, DinConfig(interest=True), TrainConfig(epochs=2, batch_size=128), split="global", folder=tmp_path / "din")
    return tmp_path / "din"


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with random weights."""
    return save_llm(tmp_path_factory.mktemp("llm") / "tiny")


@pytest.fixture(scope="module")
def recipe(llm: Path) -> Recipe:
    """How the tiny LLM makes vectors, cut in its middle."""
    return recipe_of(llm, 2)
