"""Fits a model's dense path (fusion/models/tower.py) before the rest of the model: seconds, by dense features alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from fusion.features.log import Array
from fusion.models.protocol import CtrModel
from fusion.models.tower import Tower
from fusion.training import metrics
from fusion.training.distributed import ALONE, Processes

if TYPE_CHECKING:
    from fusion.training.train import TrainConfig

RATE, DECAY = 2e-3, 1e-4
MEMORY = 0.99  # of the average of the weights


def fit_dense_path(
    model: CtrModel,
    dense: Array,
    labels: Array,
    parts: tuple[Array, Array],
    config: TrainConfig,
    dist: Processes = ALONE,
) -> float:
    """Fit it to dense features (n, F) and labels (n,), and let the rest of the model begin by adding nothing.

    parts: sample numbers of the training and of the validation part. The averaged weights of the epoch with the best
    validation AUC, which is returned, are kept. Every process does the same work: it is little.
    """
    path = model.dense_path
    assert path is not None
    training, validation = parts
    batch, device = config.batch_size, next(path.parameters()).device
    x, y = torch.from_numpy(dense), torch.from_numpy(labels.astype(np.float32))
    parameters = list(path.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
    average = [value.detach().clone() for value in parameters]
    best, best_auc = average, float("nan")
    step, steps = 0, config.dense_epochs * -(-len(training) // batch)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng((config.seed, 1))
    for _ in range(config.dense_epochs):
        path.train()
        order = rng.permutation(training)
        for start in range(0, len(order), batch):
            rows = torch.from_numpy(order[start : start + batch])
            optimizer.param_groups[0]["lr"] = RATE * (0.1 + 0.45 * (1 + np.cos(np.pi * step / steps)))
            loss = F.binary_cross_entropy_with_logits(path(x[rows].to(device)), y[rows].to(device))
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
    for module in model.modules():
        if isinstance(module, Tower):
            torch.nn.init.zeros_(module.last.weight)
            torch.nn.init.zeros_(module.last.bias)
    return best_auc


@torch.no_grad()
def _put(parameters: list[torch.nn.Parameter], values: list[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
