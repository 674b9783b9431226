"""BAHE on all of ML-1M: the upper layers of SmolLM2 above a high cut, on a bank of its own in the work folder."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from fusion.encoders.recipe import Recipe
from fusion.encoders.split_llm import architecture, recipe_of
from fusion.features.dataset import Dataset
from fusion.features.log import Array
from fusion.features.splits import VALID
from fusion.models.bahe.model import BaheConfig
from fusion.training.bahe import with_bank_vectors
from fusion.training.train import TrainConfig
from streams.settings.load import default_llm
from streams.store.engine import open_store

DESIGN = 2  # raised by hand where BAHE computes otherwise and no setting tells: kept lines are then made again
CUT = 28  # of 30 layers: two are trained
TOGETHER = 64
# One pass over 773,000 rows: as many steps as 25 epochs of the sample that `bahe_auc.py` learns in five
TRAIN_BAHE = TrainConfig(epochs=1, batch_size=1024, lr=2e-3, pretrained_rate=0.05)
SELECTING = 5  # selection looks at the validation rows of each fifth user: scoring is exact, about 100 rows a second


def settings_of() -> list[object]:
    """What a run is made with; the LLM need not be there."""
    bare = BaheConfig(
        recipe=Recipe(llm="", config="", tokenizer="", cut=CUT), folder="", architecture={}, pack=TOGETHER
    )
    return [DESIGN, bare, SELECTING, TRAIN_BAHE]


def selecting(dataset: Dataset) -> Array:
    """The validation rows that choose the epoch."""
    own = dataset.of(VALID)
    return own[dataset.log.user[dataset.rows[own]] % SELECTING == 0]


def prepare(dataset: Dataset, history: int, work: Path) -> tuple[Dataset, BaheConfig]:
    """Fill the bank with what it lacks; the dataset with its vectors, and the config to build the model with."""
    llm = default_llm()
    config = BaheConfig(
        recipe=recipe_of(llm, CUT), folder=str(llm), architecture=architecture(llm), history=history, pack=TOGETHER
    )
    engine = open_store(f"sqlite:///{work / 'bank.db'}")
    dataset = with_bank_vectors(dataset, engine, config.recipe, llm, work / "bank", _shown)
    engine.dispose()
    return dataset, config


@contextlib.contextmanager
def _shown(title: str, total: int) -> Iterator[Callable[[int], None]]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        if (done + count) * 20 // total > done * 20 // total:
            print(f"  {title}: {done + count:,} of {total:,}", file=sys.stderr, flush=True)
        done += count

    yield advance
