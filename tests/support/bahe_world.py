"""BAHE on a small log, over a tiny LLM whose bank is held in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from sqlalchemy import Engine
from torch import nn

from fusion.bank.mmap_file import KEY, BankFile
from fusion.encoders.recipe import Recipe
from fusion.encoders.split_llm import architecture, open_lower_layers
from fusion.features.collate import BatchIndices
from fusion.features.dataset import Dataset, DatasetConfig, read_dataset
from fusion.features.samples import Samples
from fusion.models.bahe.model import Bahe, BaheConfig
from fusion.models.bahe.standardise import Standardise
from fusion.training.bahe import begin_with_llm, with_bank_vectors
from fusion.training.train import TrainConfig
from tests.support.ctr_world import log_of, random_rows
from tests.support.small_models import DATA

CLOSE = 1e-5  # float32 sums in another order
LOG = log_of(random_rows(1, user_count=12), 12, 40)
THREE = ("recent", "liked", "disliked")
M = 6  # behaviours of a history
FORMS = {
    "causal": {},
    "bidirectional": {"mask": "bidirectional", "pooling": "last"},
    "three": {"sequences": THREE},
    "interest": {"interest": True},
    "lora": {"tune": "lora", "rank": 2},
}
QUICK = TrainConfig(epochs=2, batch_size=64, patience=9)


class Made:
    """A bank in memory, filled with what is asked of it."""

    def __init__(self, llm: Path, recipe: Recipe) -> None:
        self._lower, self._recipe = open_lower_layers(llm, recipe), recipe

    def __call__(self, texts: list[str]) -> BankFile:
        keys = np.array(self._recipe.keys(texts), KEY)
        order = np.argsort(keys)
        return BankFile(keys[order], self._lower(texts).astype(np.float16)[order])


def config_of(llm: Path, recipe: Recipe, **changes: object) -> BaheConfig:
    own = BaheConfig(
        recipe=recipe, folder=str(llm), architecture=architecture(llm), history=M,
        heads=2, width=8, hidden=(16,), dropout=0.0,
    )  # fmt: skip
    return msgspec.structs.replace(own, **changes)


def fresh(spec: object, config: BaheConfig) -> Bahe:
    torch.manual_seed(0)
    model = Bahe(spec, config)  # type: ignore[arg-type]
    begin_with_llm(model, config)
    return model


def shaken(model: nn.Module) -> None:
    """Random weights of some size around the LLM, so that no law holds because everything is zero."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.startswith("high.") or name.endswith(".up"):
                weight.add_(torch.randn_like(weight) * 0.2)
        for own in (module for module in model.modules() if isinstance(module, Standardise)):
            own.mean.normal_()
            own.variance.uniform_(0.5, 2.0)


def alone(rows: np.ndarray) -> BatchIndices:
    return BatchIndices(rows, np.ones(len(rows), np.int64))


@torch.no_grad()
def logits(model: Bahe, samples: Samples, chosen: BatchIndices) -> np.ndarray:
    return np.asarray(model(model.collator.collate(samples, chosen)).numpy())


@contextlib.contextmanager
def quiet(_title: str, _total: int) -> Iterator[object]:
    yield lambda _: None


def ready(store: Engine, recipe: Recipe, llm: Path, cache: Path, data: DatasetConfig = DATA) -> Dataset:
    with store.connect() as connection:
        dataset = read_dataset(connection, data)
    return with_bank_vectors(dataset, store, recipe, llm, cache, quiet)  # type: ignore[arg-type]
