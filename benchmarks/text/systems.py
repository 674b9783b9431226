"""One run of `bahe_auc.py`: a system, its settings and a seed become scores and figures."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from sqlalchemy import Engine

from benchmarks.clock import Clock
from benchmarks.text.full_text import FullText, TokenStates, WholeUsers, token_states
from benchmarks.text.sample import HISTORY
from fusion.bank.index import texts_of
from fusion.bank.vectors import fill, missing
from fusion.encoders.recipe import Recipe, TextPooling
from fusion.encoders.split_llm import Mask, architecture, open_lower_layers, recipe_of
from fusion.features.dataset import Dataset
from fusion.features.log import Array
from fusion.features.splits import TEST, TRAIN, VALID
from fusion.models.bahe.model import Bahe, BaheConfig
from fusion.models.din import Din, DinConfig
from fusion.models.protocol import CtrModel
from fusion.training import metrics
from fusion.training.bahe import begin_with_llm, with_bank_vectors
from fusion.training.checkpoint import remove_checkpoint
from fusion.training.experiment import fingerprint
from fusion.training.train import TrainConfig, predict, train

# Raised by hand where a system computes otherwise and no setting tells: what was kept of runs before is made again.
# 2: sizes and liked shares, matching, slow projections, items' own vectors; no products; full text without sinks
DESIGN = 2
FULL_TEXT, BAHE, BAHE_USERS, DIN = "full text", "BAHE", "BAHE, full text's batches", "DIN without text"
SYSTEMS = (FULL_TEXT, BAHE, BAHE_USERS, DIN)
TOGETHER = 16
# Every text is known here, so nothing is hidden. The mean of the weights has a memory of 50 steps, for an epoch has 30.
# Validation of BAHE's first design without counts, seed 0: .6609 at 2e-3 (the LLM's layers at 1e-4 in both), .6600 at
# 1e-3; with kept vectors and three seeds, heads alone, batches of 256 had .6661, of 128 .6625. This design, seeds 0 and
# 1: .6874 and .6796 after four epochs, still rising; .6931 and .6807 in seven, at the fourth of them
TRAIN_TEXT = TrainConfig(epochs=7, batch_size=256, lr=2e-3, pretrained_rate=0.05, unknown=0.0, average=0.98)
# Validation, three seeds, stopped after three epochs: .7244 at 2e-3, .7237 at 1e-3, .7231 at 5e-4; without counts .6815
# at 2e-3, .6755 at 1e-3, still rising in some. It has as many epochs as it wants; patience ends it
TRAIN_DIN = TrainConfig(epochs=8, batch_size=128, lr=2e-3, average=0.98)
PARTS = (("valid", VALID), ("test", TEST))


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run is made with, but its seed."""

    system: str = BAHE
    users: int  # of the sample
    llm: str  # the name of its folder
    cut: int
    text_pooling: TextPooling = "mean"  # of a text's tokens in the bank
    pooling: TextPooling = "mean"  # of a user's states
    mask: Mask = "causal"
    counts: bool = True  # the head sees the lifelong counts
    training: TrainConfig = TRAIN_TEXT

    @property
    def digest(self) -> str:
        """Of the built model's settings too, whose defaults may change, and of how it computes."""
        return hashlib.sha256(msgspec.json.encode([DESIGN, self, model_config(self)])).hexdigest()[:8]


@dataclass(slots=True)
class World:
    """The sample, and where things are kept."""

    dataset: Dataset
    engine: Engine
    llm: Path
    work: Path
    told: Callable[[str, dict[str, Any]], None]  # keeps what a bank or the token states cost
    counts: Array = field(init=False)
    digest: str = field(init=False)  # of the data

    def __post_init__(self) -> None:
        self.counts = self.dataset.samples.dense.copy()
        self.digest = fingerprint(self.dataset)[:8]


def name_of(setting: Setting, seed: int) -> str:
    """Of the files of a run."""
    return f"{setting.system.replace(',', '').replace(chr(39), '').replace(' ', '-').lower()}-{setting.digest}-s{seed}"


def execute(
    setting: Setting, seed: int, world: World, *, tested: bool = True
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Figures, and scores of the validation part and, if it is to be `tested`, of the test part."""
    config = msgspec.structs.replace(setting.training, seed=seed)
    torch.manual_seed(seed)
    model, own = _model(setting, world)
    dataset = world.dataset  # with the bank's vectors, where the model reads them
    dataset.samples.dense[:] = world.counts if setting.counts else 0.0
    clock = Clock(len(dataset.of(TRAIN)), lambda epoch: say(f"  {epoch}"))
    folder = world.work / "runs" / name_of(setting, seed)
    epochs = train(
        model, dataset.samples, dataset.labels, (dataset.of(TRAIN), dataset.of(VALID)), config,
        folder=folder, fingerprint=fingerprint(dataset, own, config, setting),
        advance=clock.advance, report=clock.report,
    )  # fmt: skip
    timed = {"seconds_a_sample": clock.busy_s / clock.seen, "samples_timed": clock.seen} if clock.seen else {}
    began = time.process_time()
    parts = PARTS if tested else PARTS[:1]
    scores = {name: predict(model, dataset.samples, dataset.of(part)) for name, part in parts}
    scored = sum(map(len, scores.values()))
    line = {
        "system": setting.system, "seed": seed, "settings": msgspec.to_builtins(setting), "data": world.digest,
        **{name: measure(dataset, part, scores[name]) for name, part in parts},
        **timed,
        "scoring_seconds_a_sample": (time.process_time() - began) / scored,
        "epochs": len(epochs), "valid_curve": [round(epoch.auc, 5) for epoch in epochs],
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }  # fmt: skip
    remove_checkpoint(folder)
    return line, scores


def measure(dataset: Dataset, part: int, scores: Array) -> dict[str, float]:
    own = dataset.of(part)
    labels = dataset.labels[own]
    slices = {name: chosen[own] for name, chosen in dataset.slices.items()}
    return {
        "auc": metrics.auc(labels, scores),
        "gauc": metrics.gauc(labels, scores, dataset.log.user[dataset.rows[own]]),
        "log_loss": metrics.log_loss(labels, scores),
        **{name: metrics.auc(labels[chosen], scores[chosen]) for name, chosen in slices.items()},
    }


def model_config(setting: Setting) -> BaheConfig | DinConfig:
    """All settings of the model; the LLM, which need not be there, is left open."""
    if setting.system == DIN:
        return DinConfig()
    recipe = Recipe(llm="", config="", tokenizer="", cut=setting.cut, pooling=setting.text_pooling)
    return BaheConfig(
        recipe=recipe, folder="", architecture={}, history=HISTORY,
        mask=setting.mask, pooling=setting.pooling, pack=TOGETHER,
    )  # fmt: skip


def _model(setting: Setting, world: World) -> tuple[CtrModel, msgspec.Struct]:
    bare = model_config(setting)
    if isinstance(bare, DinConfig):
        return Din(world.dataset.spec, bare), bare
    recipe = recipe_of(world.llm, setting.cut, pooling=setting.text_pooling)
    config = msgspec.structs.replace(
        bare, recipe=recipe, folder=str(world.llm), architecture=architecture(world.llm)
    )  # fmt: skip
    if setting.system == FULL_TEXT:
        model: Bahe = FullText(world.dataset.spec, config, read_tokens(world, recipe))
    else:
        fill_bank(world, recipe)
        users = WholeUsers(config.sequences, config.history) if setting.system == BAHE_USERS else None
        model = Bahe(world.dataset.spec, config, users)
    begin_with_llm(model, config)
    return model, config


def read_tokens(world: World, recipe: Recipe) -> TokenStates:
    lower, folder = open_lower_layers(world.llm, recipe), world.work / "tokens" / recipe.id
    with bar(f"Token states, cut {recipe.cut}") as advance:
        made = token_states(world.dataset.samples, lower, folder, HISTORY, advance)
    cost = msgspec.json.decode((folder / "cost.json").read_bytes()).values()
    tokens, seconds = sum(own["tokens"] for own in cost), sum(own["seconds"] for own in cost)
    world.told(f"tokens-{recipe.id}", {"cut": recipe.cut, "tokens": tokens, "seconds": round(seconds, 1)})
    return made


def fill_bank(world: World, recipe: Recipe) -> None:
    """Let the samples know their vectors; tell what filling the bank took, if there was something to fill."""
    texts = texts_of(world.dataset.samples, recipe.template).texts
    if missing(world.engine, recipe.id, dict(zip(recipe.keys(texts), texts, strict=True))):
        lower, began = open_lower_layers(world.llm, recipe), time.process_time()
        with bar(f"Bank, cut {recipe.cut}, {recipe.pooling}") as advance:
            filled = fill(world.engine, lower, texts, advance=advance)
        seconds = (time.process_time() - began) / filled.computed
        tokens = sum(map(len, lower.tokens(texts))) / len(texts)
        world.told(
            f"bank-{recipe.id}",
            {"cut": recipe.cut, "pooling": recipe.pooling, "texts": len(texts), "seconds_a_text": round(seconds, 5),
             "tokens_a_text": round(tokens, 2)},
        )  # fmt: skip
    quiet = lambda _title, _total: contextlib.nullcontext(lambda _: None)  # noqa: E731
    world.dataset = with_bank_vectors(world.dataset, world.engine, recipe, world.llm, world.work / "bank", quiet)


@contextlib.contextmanager
def bar(title: str) -> Iterator[Callable[[int], None]]:
    """Tells on the standard error how far it is, twice a minute."""
    done, told = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        if time.monotonic() - told > 30:
            told = time.monotonic()
            say(f"  {title}: {done:,}")

    yield advance


def say(what: object) -> None:
    print(what, file=sys.stderr, flush=True)


def scores_of(files: list[Path], part: str) -> Array:
    """(S, n): every seed's."""
    return np.stack([np.load(file)[part] for file in files])
