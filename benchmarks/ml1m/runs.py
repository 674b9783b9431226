"""One run of `ctr_ml1m.py`: a model, a split, a history length and a seed become scores and figures."""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks.clock import Clock
from benchmarks.ml1m import bahe
from fusion.features.dataset import Dataset, Labelled
from fusion.features.log import Array
from fusion.features.splits import TEST, TRAIN, VALID, Split
from fusion.models.bahe.model import Bahe, BaheConfig
from fusion.models.din import DinConfig
from fusion.models.protocol import ModelConfig
from fusion.models.registry import build
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4Ctr, Srp4CtrConfig, ablations
from fusion.training import metrics
from fusion.training.bahe import begin_with_llm
from fusion.training.checkpoint import remove_checkpoint
from fusion.training.experiment import fingerprint
from fusion.training.pretrain import PretrainConfig
from fusion.training.pretrained import Pretrained, load_pretrained, take_over
from fusion.training.pretrained import run as run_pretraining
from fusion.training.train import TrainConfig, predict, train
from interest.errors import ArtifactError

FRESH = "SRP4CTR, no pre-training"
PLAIN = "SRP4CTR, no second task, no lifelong sums"
FORMS = {
    "SRP4CTR": "full",
    "SRP4CTR, no cross-attention": "no-cross",
    "SRP4CTR, no queries": "no-querying",
    "FG-BERT-MP": "mp",
    FRESH: "full",
    PLAIN: "full",
}
PEERS = ("torch-rechub DIN", "torch-rechub BST")
LEARNT = (*FORMS, "Interestream DIN", *PEERS)  # have a history and a seed
COUNTED = ("LightGBM on the same counts",)
TEXT = "BAHE"  # at the shortest history alone, and not in a quick run: its bank takes a quarter of an hour
TOGETHER = {50: 15, 200: 56}  # windows of 64 and of 255 columns in training
VALUE_TASK = 0.5
PRETRAIN = PretrainConfig(epochs=10)
PRETRAINED = 50  # history in pre-training, for both: the same encoder then reads longer ones
# Chosen on validation in trials, inside users, history 50, which were not kept: the encoder at a tenth of 1e-3 for six
# epochs .8240, still rising; at the full rate of 2e-3 .8259 after four of six; with the second task .8284 there
TRAIN_SRP = TrainConfig(epochs=4, lr=2e-3, embedding_decay=0.2)
# Chosen on validation by DIN inside users, in trials that were not kept: after three epochs .8014 with a decay of
# embeddings of 1e-4, .8013 with 1e-3, both still rising
PEER = {"epochs": 6, "lr": 1e-3, "decay": 1e-4}


@dataclass(frozen=True, slots=True)
class Run:
    split: Split
    model: str
    history: int  # 0: none
    seed: int

    @property
    def key(self) -> str:
        return f"{self.split}/{self.model}/{self.history}/{self.seed}"

    @property
    def file(self) -> str:
        name = self.model.lower().replace(",", "").replace(" ", "-")
        return f"{self.split}-{name}-h{self.history}-s{self.seed}"


@dataclass(frozen=True, slots=True)
class Data:
    """One split at one history length."""

    dataset: Dataset
    read: Labelled
    quick: bool
    work: Path  # where checkpoints and pre-trained encoders are kept
    peak_mb: int  # this process's memory after the samples were built
    peer_epochs: int  # of public models, at most


def execute(run: Run, data: Data) -> tuple[dict[str, Any], dict[str, Array]]:
    """Figures, and scores of the validation and of the test part."""
    if run.model in COUNTED:
        scores, noted = _boosted(data)
    elif run.model in PEERS:
        scores, noted = _peer(run, data)
    else:
        scores, noted = _ours(run, data)
    dataset = data.dataset
    measured = {part: measure(dataset, rows, scores[part]) for part, rows in scored(run, dataset).items()}
    name = {"split": run.split, "model": run.model, "history": run.history, "seed": run.seed}
    made = {"settings": settings_of(run), "versions": versions()}
    return name | made | measured | noted, scores


def settings_of(run: Run) -> str:
    """What a kept line was made with, so that it is made again where that has changed."""
    if run.model in COUNTED:
        from benchmarks.ctr_din import BOOSTING

        return _digest(BOOSTING)
    if run.model in PEERS:
        from benchmarks.ml1m.peers import SHAPE

        return _digest(PEER, SHAPE)
    if run.model == "Interestream DIN":
        return _digest(DinConfig(), TrainConfig())
    if run.model == TEXT:
        return _digest(bahe.settings_of())
    own = _config(run, _encoder(run.history))
    made = () if run.model == FRESH else (PRETRAIN, PRETRAINED)
    return _digest(own, TRAIN_SRP, *made, *(("a fifth of the users selects",) if run.history > PRETRAINED else ()))


def _encoder(history: int) -> FgBertConfig:
    return FgBertConfig(positions=history + TOGETHER[history] - 1)


def _config(run: Run, encoder: FgBertConfig, pretrained: str = "") -> Srp4CtrConfig:
    plain = run.model == PLAIN
    more = {"value_task": 0.0 if plain else VALUE_TASK, "lifelong": not plain}
    own = ablations(encoder, pack=TOGETHER[run.history], pretrained=pretrained, **more)
    return own[FORMS[run.model]]


def _digest(*settings: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(settings)).hexdigest()[:8]


def scored(run: Run, dataset: Dataset) -> dict[str, Array]:
    """Rows of each part that are scored: all, but for BAHE's validation, which is what selected the epoch."""
    return {
        "valid": bahe.selecting(dataset) if run.model == TEXT else dataset.of(VALID),
        "test": dataset.of(TEST),
    }


def measure(dataset: Dataset, own: Array, scores: Array) -> dict[str, float]:
    labels = dataset.labels[own]
    bulk, cold, few = (dataset.slices[name][own] for name in ("bulk_tail", "cold_users", "cold_items"))
    tail, rest = metrics.auc(labels[bulk], scores[bulk]), metrics.auc(labels[~bulk], scores[~bulk])
    return {
        "auc": metrics.auc(labels, scores),
        "gauc": metrics.gauc(labels, scores, dataset.log.user[dataset.rows[own]]),
        "log_loss": metrics.log_loss(labels, scores),
        "bulk_tail": tail,
        "gap": rest - tail,  # how much worse on the long tail than elsewhere
        "cold": metrics.auc(labels[cold], scores[cold]),
        "cold_items": metrics.auc(labels[few], scores[few]),
    }


def _ours(run: Run, data: Data) -> tuple[dict[str, Array], dict[str, Any]]:
    dataset = data.dataset
    held: Pretrained | None = None
    config: ModelConfig
    settings = msgspec.structs.replace(TRAIN_SRP, seed=run.seed)
    if run.model == "Interestream DIN":
        config, settings = DinConfig(), TrainConfig(seed=run.seed)
    elif run.model == TEXT:
        dataset, config = bahe.prepare(dataset, run.history, data.work)
        settings = msgspec.structs.replace(bahe.TRAIN_BAHE, seed=run.seed)
    else:
        held = None if run.model == FRESH else _pretrained(run, data)
        config = _config(run, _encoder(run.history), held.id if held else "")
    if data.quick:
        settings = msgspec.structs.replace(settings, epochs=1)
    torch.manual_seed(run.seed)
    model = build(dataset.spec, config)
    if isinstance(model, Srp4Ctr):
        take_over(model, dataset.spec, held)
    selection = dataset.of(VALID)
    if isinstance(config, BaheConfig) and isinstance(model, Bahe):
        begin_with_llm(model, config)
    if isinstance(config, BaheConfig) or run.history > PRETRAINED:
        selection = bahe.selecting(dataset)  # to score is dearer than to train: each moment has a window of its own
    clock = Clock(len(dataset.of(TRAIN)), say)
    folder = data.work / "runs" / f"{run.file}-{settings_of(run)}"
    epochs = train(
        model, dataset.samples, dataset.labels, (dataset.of(TRAIN), selection), settings,
        folder=folder, fingerprint=fingerprint(dataset, config, settings),
        advance=clock.advance, report=clock.report,
    )  # fmt: skip
    scores = {name: predict(model, dataset.samples, rows) for name, rows in scored(run, dataset).items()}
    remove_checkpoint(folder)
    return scores, _rates(clock, len(epochs) * len(dataset.of(TRAIN))) | {
        "epochs": len(epochs),
        "valid_curve": [round(epoch.auc, 5) for epoch in epochs],
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }


def _rates(clock: Clock, rows: int) -> dict[str, float]:
    """Of training alone: validation and pre-training, which seeds and histories share, are left out.

    minutes: of all `rows`, those that an earlier process trained on at this one's rate.
    """
    if not clock.seen:
        return {}
    return {
        "rows_per_s": clock.seen / clock.wall_s,
        "rows_per_cpu_s": clock.seen / clock.busy_s,
        "minutes": rows / (clock.seen / clock.wall_s) / 60,
    }


def _pretrained(run: Run, data: Data) -> Pretrained:
    """One pre-training for each split; its seed is the first one's, so that seeds share it."""
    encoder = _encoder(PRETRAINED)
    config = msgspec.structs.replace(PRETRAIN, epochs=1) if data.quick else PRETRAIN
    folder = data.work / "pretrained" / f"{run.split}-h{PRETRAINED}-{_digest(encoder, config)}"
    try:
        return load_pretrained(folder)
    except ArtifactError:
        run_pretraining(data.read, encoder, config, split=run.split, folder=folder, report=say)
        return load_pretrained(folder)


def _peer(run: Run, data: Data) -> tuple[dict[str, Array], dict[str, Any]]:
    from benchmarks.ml1m.peers import Peer

    peer = Peer(run.model.removeprefix("torch-rechub "), data.dataset, run.seed)
    settings: dict[str, Any] = PEER | {"epochs": 1 if data.quick else data.peer_epochs}
    kept = data.work / "runs" / f"{run.file}-{_digest(settings_of(run), fingerprint(data.dataset))}.pt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    noted = peer.fit(**settings, kept=kept, say=say)
    scores = {name: peer.scores(data.dataset.of(part)) for name, part in _PARTS}
    kept.unlink(missing_ok=True)
    return scores, noted | {"parameters": sum(weight.numel() for weight in peer.model.parameters())}


def _boosted(data: Data) -> tuple[dict[str, Array], dict[str, Any]]:
    from benchmarks.ctr_din import gradient_boosting

    dataset, began = data.dataset, time.perf_counter()
    valid, test = dataset.of(VALID), dataset.of(TEST)
    scores = gradient_boosting(dataset, np.concatenate([valid, test]))
    noted = {"minutes": (time.perf_counter() - began) / 60}
    return {"valid": scores[: len(valid)], "test": scores[len(valid) :]}, noted


_PARTS = (("valid", VALID), ("test", TEST))


def versions() -> dict[str, str]:
    """What a figure may depend on."""
    named = {name: version(name) for name in ("torch", "numpy", "lightgbm", "torch-rechub")}
    return {"python": platform.python_version()} | named


def say(what: object) -> None:
    print(what, file=sys.stderr, flush=True)
