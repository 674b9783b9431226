"""One training run from samples to a saved artifact: fit, measure on validation and test, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from fusion.features.dataset import Dataset
from fusion.features.labels import UNLABELLED
from fusion.features.log import Array
from fusion.features.splits import TEST, TRAIN, VALID
from fusion.features.tasks import main_task
from fusion.models.protocol import CtrModel, ModelConfig
from fusion.models.registry import build, kind_of
from fusion.training import metrics
from fusion.training.artifact import ArtifactConfig, Metrics, save_artifact, versions
from fusion.training.checkpoint import Epoch, fingerprint_of, remove_checkpoint
from fusion.training.curves import Curves, calibration_bins, save_curves
from fusion.training.distributed import ALONE, Processes
from fusion.training.train import TrainConfig, predict, train

Held = dict[str, float]  # metric -> value


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
        dataset.learnt,
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
    measured = {name: measure(dataset, rows, scores) for name, (rows, scores) in scored.items()}
    if any(isinstance(epoch.steps, int) for epoch in epochs):
        measured["training"] = balanced(epochs)
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
        bins = {name: calibration_bins(*_main(dataset, rows, scores)) for name, (rows, scores) in scored.items()}
        save_curves(folder, Curves(artifact=own, epochs=epochs, calibration=bins))
        remove_checkpoint(folder)
    dist.wait()
    return measured


def _scored(model: CtrModel, dataset: Dataset, part: int, dist: Processes) -> tuple[Array, Array]:
    """The part's sample numbers and their scores."""
    rows = dataset.of(part)
    return rows, predict(model, dataset.samples, rows, dist=dist)


def measure(dataset: Dataset, rows: Array, scores: Array) -> Held:
    """Every metric of the samples `rows` (n,) by their scores (n,), or (n, T) of several tasks.

    Of several, the main task's metrics have their plain names, and every task's are there as NAME/metric.
    """
    slices = {name: chosen[rows] for name, chosen in dataset.slices.items()}
    users = dataset.log.user[dataset.rows[rows]]
    if dataset.targets is None:
        return metrics.report(dataset.labels[rows], scores, users, slices)
    tasks, out = dataset.spec.tasks, dict[str, float]()
    for number, task in enumerate(tasks):
        wanted = dataset.targets[rows, number]
        there = ~np.isnan(wanted)
        own, mine = scores[there, number], {name: chosen[there] for name, chosen in slices.items()}
        if task.rule.is_number:
            told = metrics.number_report(wanted[there], own, mine)
        else:
            told = metrics.report(wanted[there].astype(np.int8), own, users[there], mine)
        if number == main_task(tasks):
            out |= told
        out |= {f"{task.name}/{name}": value for name, value in told.items()}
    return dict(sorted(out.items(), key=lambda one: "/" in one[0]))  # plain names first, whatever the tasks' order


def balanced(epochs: Sequence[Epoch]) -> Held:
    """What became of the tasks' gradients over a run: shares of its steps."""
    counted = [(one.steps, one.conflicts, one.zeros) for one in epochs]
    steps, conflicts, zeros = (sum(n for n in column if isinstance(n, int)) for column in zip(*counted, strict=True))
    return {"steps": float(steps), "conflict_share": conflicts / max(steps, 1), "zero_share": zeros / max(steps, 1)}


def _main(dataset: Dataset, rows: Array, scores: Array) -> tuple[Array, Array]:
    """Labels and scores of the main task, where it has any."""
    labels = dataset.labels[rows]
    if dataset.targets is None:
        return labels, scores
    return labels[labels != UNLABELLED], scores[labels != UNLABELLED, main_task(dataset.spec.tasks)]


def fingerprint(dataset: Dataset, *configs: msgspec.Struct) -> str:
    """What a checkpoint must agree on to be continued: the data, the spec and the settings."""
    targets = () if dataset.targets is None else (dataset.targets,)
    data = (dataset.rows, dataset.labels, dataset.part, *dataset.log.content, *dataset.samples.content, *targets)
    return fingerprint_of([dataset.spec, *configs], data)
