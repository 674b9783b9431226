"""One run of the comparison: a variant and a seed become the scores of the test part, kept in a file of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusion.features.dataset import Dataset
from fusion.features.log import Array
from fusion.features.splits import TEST, TRAIN, VALID
from fusion.models.protocol import ModelConfig
from fusion.models.registry import build
from fusion.training import experiment
from fusion.training.checkpoint import Epoch, remove_checkpoint
from fusion.training.train import TrainConfig, predict, train


def scores_of(folder: Path) -> Array | None:
    """The scores that a finished run left, (n,) float32; None where it has not finished."""
    file = folder / "scores.npy"
    return np.load(file) if file.is_file() else None


def run(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    folder: Path,
    *,
    prepare: Callable[[Any], None] = lambda _: None,
    advance: Callable[[int], None] = lambda _: None,
) -> Array:
    """Train (continuing after an interruption) and score the test part; the file of scores is written last and whole.

    Selection of the epoch sees the validation part alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    model = build(dataset.spec, model_config)
    prepare(model)
    epochs: list[Epoch] = train(
        model,
        dataset.samples,
        dataset.labels,
        (dataset.of(TRAIN), dataset.of(VALID)),
        config,
        folder=folder,
        fingerprint=experiment.fingerprint(dataset, model_config, config),
        advance=advance,
    )
    scores = predict(model, dataset.samples, dataset.of(TEST)).astype(np.float32)
    note = {"validation_auc": [round(epoch.auc, 5) for epoch in epochs]}
    (folder / "epochs.json").write_text(json.dumps(note) + "\n", encoding="utf-8")
    partial = folder / "scores.partial.npy"
    np.save(partial, scores)
    partial.rename(folder / "scores.npy")
    remove_checkpoint(folder)
    return scores
