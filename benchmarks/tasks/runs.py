"""One run of `multi_task.py`; the cosines of the tasks' gradients along one; what balanced gradients cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusion.features.dataset import Dataset
from fusion.features.splits import TEST, TRAIN, VALID
from fusion.models.din import DinConfig
from fusion.models.registry import build
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4CtrConfig
from fusion.training import metrics
from fusion.training.balance import Balancer
from fusion.training.experiment import balanced
from fusion.training.processor import fast_cpu
from fusion.training.train import TrainConfig, predict, train

# Without a dense path, which is each task's own: on a log of a few hundred users it knows nearly all there is to know,
# and whatever became of the gradients of what tasks share, AUCs were the same to five digits.
MODELS: dict[str, DinConfig | Srp4CtrConfig] = {
    "din": DinConfig(),
    # half as wide, and not pre-trained: a history of 50, and 15 moments of a window in training
    "srp4ctr": Srp4CtrConfig(encoder=FgBertConfig(positions=65, width=32)),
}
EPOCHS = 4  # of which the best on validation is taken
PROBES = 60  # steps along which gradients are compared
COSTED = 30  # steps of either kind that are timed


def learn(
    dataset: Dataset, balance: Any, seed: int, *, model: str = "din", epochs: int = EPOCHS, quick: bool
) -> dict[str, Any]:
    """One run: AUC by task of validation and test, and what became of the gradients."""
    training, config = dataset.of(TRAIN), MODELS[model]
    settings = TrainConfig(epochs=1 if quick else epochs, seed=seed, balance=balance, batch_size=256 if quick else 1024)
    torch.manual_seed(seed)
    network = build(dataset.spec, config)
    made = train(network, dataset.samples, dataset.learnt, (training, dataset.of(VALID)), settings)
    out: dict[str, Any] = {}
    tasks = dataset.spec.tasks
    for name, part in (("valid", VALID), ("test", TEST)):
        rows = dataset.of(part)
        scores, wanted = predict(network, dataset.samples, rows), dataset.learnt[rows]
        one = len(tasks) == 1
        out[name] = {tasks[0].name: metrics.auc(wanted, scores)} if one else metrics.by_task(tasks, wanted, scores)
    if isinstance(made[0].steps, int):
        out["training"] = balanced(made)
    return out


def probe(dataset: Dataset, *, model: str = "din", quick: bool) -> dict[str, Any]:
    """Cosines of the tasks' gradients along a short run by their sum: means, and shares of the steps below 0.

    Pairs conflict that point apart in most steps and on average.
    """
    network, names = started(dataset, model), [task.name for task in dataset.spec.tasks]
    optimizer, balancer = torch.optim.AdamW(network.parameters(), lr=2e-3), Balancer("sum")
    found = []
    for losses in batches(dataset, network, PROBES // 4 if quick else PROBES):
        optimizer.zero_grad(set_to_none=True)
        balancer.gradients(network, losses)
        optimizer.step()
        length = balancer.gram.diagonal().sqrt()
        found.append((balancer.gram / length.outer(length).clamp(min=1e-30)).numpy())
    every = np.stack(found)
    pairs = [(i, j) for i in range(len(names)) for j in range(i)]
    cosines = {f"{names[j]}, {names[i]}": float(every[:, i, j].mean()) for i, j in pairs}
    shares = {f"{names[j]}, {names[i]}": float((every[:, i, j] < 0).mean()) for i, j in pairs}
    conflicting = [pair for pair, share in shares.items() if share > 0.5 and cosines[pair] < 0]
    return {"mean": cosines, "below_0": shares, "conflicting": conflicting}


def passes(dataset: Dataset, *, model: str = "din") -> dict[str, float]:
    """What a step's gradients by GDOD cost, in backward passes by the sum of the losses; medians, taken in turn."""
    network, balancer = started(dataset, model), Balancer("gdod")
    plain, ours = list[float](), list[float]()
    with fast_cpu():
        for number, losses in enumerate(batches(dataset, network, 2 * COSTED)):
            began = time.process_time()
            if number % 2:
                balancer.gradients(network, losses)
            else:
                torch.stack(losses).sum().backward()
            (ours if number % 2 else plain).append(time.process_time() - began)
            for weight in network.parameters():
                weight.grad = None
    return {"tasks": len(dataset.spec.tasks), "passes": median(ours[1:]) / median(plain[1:])}


def started(dataset: Dataset, model: str) -> Any:
    torch.manual_seed(0)
    return build(dataset.spec, MODELS[model]).train()


def batches(dataset: Dataset, model: Any, most: int) -> Iterator[list[Tensor]]:
    """The tasks' losses of so many batches of 1,024 training samples."""
    rng, targets, made = np.random.default_rng(0), torch.from_numpy(dataset.learnt), 0
    while True:
        for (chosen,) in model.collator.epoch(dataset.samples, dataset.of(TRAIN), 1024, rng, 1):
            if made == most:
                return
            made += 1
            losses = model.loss(model.collator.collate(dataset.samples, chosen), targets[torch.from_numpy(chosen.rows)])
            yield list((losses.ctr / len(chosen)).unbind())
