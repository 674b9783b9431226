"""One training run from samples to a saved artifact: fit, measure on validation and test, write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from fusion.features.dataset import Dataset
from fusion.features.splits import TEST, TRAIN, VALID
from fusion.models.protocol import CtrModel, ModelConfig
from fusion.models.registry import build, kind_of
from fusion.training import metrics
from fusion.training.artifact import ArtifactConfig, Metrics, save_artifact, versions
from fusion.training.checkpoint import Epoch, fingerprint_of, remove_checkpoint
from fusion.training.distributed import ALONE, Processes
from fusion.training.train import TrainConfig, predict, train


def run(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    *,
    split: str,
    folder: Path,
    advance: Callable[[int], None] = lambda _: None,
    report: Callable[[Epoch], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    prepare: Callable[[Any], None] = lambda _: None,
    device: torch.device | None = None,
    dist: Processes = ALONE,
) -> Metrics:
    """Train a model into `folder` (continuing there after an interruption) and return the metrics by part.

    prepare: what is done to the fresh model, such as taking over pre-trained weights. device: where it is trained.
    """
    torch.manual_seed(config.seed)
    model = build(dataset.spec, model_config)
    prepare(model)
    model.to(device or torch.device("cpu"))
    training, validation = dataset.of(TRAIN), dataset.of(VALID)
    train(
        model,
        dataset.samples,
        dataset.labels,
        (training, validation),
        config,
        folder=folder,
        fingerprint=fingerprint(dataset, model_config, config),
        advance=advance,
        report=report,
        say=say,
        dist=dist,
    )
    measured = {
        "valid": measure(model, dataset, VALID, dist),
        "test": measure(model, dataset, TEST, dist),
    }
    if dist.first:
        record = ArtifactConfig(
            kind=kind_of(model_config).name,
            model=model_config,
            training=config,
            split=split,
            versions=versions(),
            statistics_at=float(dataset.log.at.max()),
        )
        match = dataset.samples.match
        space = None if match is None else match.space
        save_artifact(folder, model, dataset.spec, dataset.statistics, record, measured, space=space)
        remove_checkpoint(folder)
    dist.wait()
    return measured


def measure(model: CtrModel, dataset: Dataset, part: int, dist: Processes = ALONE) -> dict[str, float]:
    """Every metric on one part of the samples."""
    rows = dataset.of(part)
    scores = predict(model, dataset.samples, rows, dist=dist)
    slices = {name: chosen[rows] for name, chosen in dataset.slices.items()}
    return metrics.report(dataset.labels[rows], scores, dataset.log.user[dataset.rows[rows]], slices)


def fingerprint(dataset: Dataset, *configs: msgspec.Struct) -> str:
    """What a checkpoint must agree on to be continued: the data, the spec and the settings."""
    data = (dataset.rows, dataset.labels, dataset.part, *dataset.log.content, *dataset.samples.content)
    return fingerprint_of([dataset.spec, *configs], data)
