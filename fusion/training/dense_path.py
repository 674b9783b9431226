"""Fits a model's dense path (fusion/models/tower.py) before the rest of the model: seconds, by dense features alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fusion.features.log import Array
from fusion.features.tasks import Task, Tasks
from fusion.models.protocol import CtrModel, scale_of
from fusion.models.tower import DensePath, Tower
from fusion.training import metrics
from fusion.training.distributed import ALONE, Processes

RATE, DECAY = 2e-3, 1e-4
MEMORY = 0.99  # of the average of the weights


class DenseSchedule(NamedTuple):
    """How long it learns, and from what draws."""

    epochs: int
    batch_size: int
    seed: int


def fit_dense_path(
    model: CtrModel,
    tasks: Tasks,
    dense: Array,
    labels: Array,
    parts: tuple[Array, Array],
    schedule: DenseSchedule,
    dist: Processes = ALONE,
) -> float:
    """Fit it to dense features (n, F) and labels (n,), and let the rest of the model begin by adding nothing.

    Of several tasks, whose targets are (n, T), each has its own path, fitted to the rows on which it has a target.
    parts: sample numbers of the training and of the validation part. Returns the validation AUC, of several tasks the
    mean of those that are a yes or no. Every process does the same work: it is little.
    """
    path = model.dense_path
    assert path is not None
    if isinstance(path, DensePath):
        auc = _fit(path, tasks[0], dense, labels, parts, schedule, dist)
    else:
        best = []
        for number, (task, own) in enumerate(zip(tasks, path.each, strict=True)):
            there = ~np.isnan(labels[:, number])
            rows = tuple(part[there[part]] for part in parts)
            best.append(_fit(cast(DensePath, own), task, dense, labels[:, number], (rows[0], rows[1]), schedule, dist))
        auc = float(np.mean([each for each, task in zip(best, tasks, strict=True) if not task.rule.is_number]))
    for module in model.modules():
        if isinstance(module, Tower):
            torch.nn.init.zeros_(module.last.weight)
            torch.nn.init.zeros_(module.last.bias)
    return auc


def _fit(
    path: DensePath,
    task: Task,
    dense: Array,
    labels: Array,
    parts: tuple[Array, Array],
    schedule: DenseSchedule,
    dist: Processes,
) -> float:
    """Keep the averaged weights of the epoch with the best validation AUC, or least squared error; return that."""
    training, validation = parts
    batch, device = schedule.batch_size, next(path.parameters()).device
    x, y = torch.from_numpy(dense), torch.from_numpy(labels.astype(np.float32))
    if task.rule.is_number:
        mean, deviation = scale_of(task)
        y = (y - mean) / deviation
    loss_of: Callable[[Tensor, Tensor], Tensor]
    loss_of = F.mse_loss if task.rule.is_number else F.binary_cross_entropy_with_logits
    parameters = list(path.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
    average = [value.detach().clone() for value in parameters]
    best, best_auc = average, float("nan")
    step, steps = 0, schedule.epochs * -(-len(training) // batch)
    torch.manual_seed(schedule.seed)
    rng = np.random.default_rng((schedule.seed, 1))
    for _ in range(schedule.epochs):
        path.train()
        order = rng.permutation(training)
        for start in range(0, len(order), batch):
            rows = torch.from_numpy(order[start : start + batch])
            optimizer.param_groups[0]["lr"] = RATE * (0.1 + 0.45 * (1 + np.cos(np.pi * step / steps)))
            loss = loss_of(path(x[rows].to(device)), y[rows].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            with torch.no_grad():
                torch._foreach_lerp_(average, [*parameters], 1 - min(MEMORY, step / (step + 10)))
        now = [value.detach().clone() for value in parameters]
        _put(parameters, average)
        path.eval()
        with torch.no_grad():
            scores = path(x[torch.from_numpy(validation)].to(device)).double().cpu().numpy()
        if task.rule.is_number:
            auc = -float(np.mean((y.numpy()[validation] - scores) ** 2))
        else:
            auc = metrics.auc(labels[validation], scores)
        if not auc <= best_auc:
            best, best_auc = [value.clone() for value in average], auc
        _put(parameters, now)
    with torch.no_grad():
        for value in best:
            dist.sum_(value)
            value.div_(dist.count)
    _put(parameters, best)
    path.train()
    return best_auc


@torch.no_grad()
def _put(parameters: list[torch.nn.Parameter], values: list[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
