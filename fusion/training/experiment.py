"""One training run from samples to a saved artifact: fit, measure on validation and test, write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from fusion.features.dataset import Dataset
from fusion.features.log import Array
from fusion.features.splits import TEST, TRAIN, VALID
from fusion.models.protocol import CtrModel, ModelConfig
from fusion.models.registry import build, kind_of
from fusion.training import metrics
from fusion.training.artifact import ArtifactConfig, Metrics, save_artifact, versions
from fusion.training.checkpoint import Epoch, fingerprint_of, remove_checkpoint
from fusion.training.curves import Curves, calibration_bins, save_curves
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
    epochs = train(
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
    scored = {name: _scored(model, dataset, part, dist) for name, part in (("valid", VALID), ("test", TEST))}
    measured = {name: _report(dataset, rows, scores) for name, (rows, scores) in scored.items()}
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
        own = save_artifact(folder, model, dataset.spec, dataset.statistics, record, measured, space=space)
        bins = {name: calibration_bins(dataset.labels[rows], scores) for name, (rows, scores) in scored.items()}
        save_curves(folder, Curves(artifact=own, epochs=epochs, calibration=bins))
        remove_checkpoint(folder)
    dist.wait()
    return measured


def _scored(model: CtrModel, dataset: Dataset, part: int, dist: Processes) -> tuple[Array, Array]:
    """The part's sample numbers and their scores."""
    rows = dataset.of(part)
    return rows, predict(model, dataset.samples, rows, dist=dist)


def _report(dataset: Dataset, rows: Array, scores: Array) -> dict[str, float]:
    slices = {name: chosen[rows] for name, chosen in dataset.slices.items()}
    return metrics.report(dataset.labels[rows], scores, dataset.log.user[dataset.rows[rows]], slices)


def fingerprint(dataset: Dataset, *configs: msgspec.Struct) -> str:
    """What a checkpoint must agree on to be continued: the data, the spec and the settings."""
    data = (dataset.rows, dataset.labels, dataset.part, *dataset.log.content, *dataset.samples.content)
    return fingerprint_of([dataset.spec, *configs], data)
