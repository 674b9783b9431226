"""BAHE's heads: their logits are averaged, and each learns for itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fusion.bank.index import with_bank
from fusion.encoders.recipe import Recipe
from fusion.features.samples import Samples
from fusion.features.tasks import parse_tasks, targets_of, with_scales
from fusion.models.bahe.model import Bahe
from fusion.models.protocol import summed_loss
from fusion.training import metrics
from fusion.training.train import TrainConfig, predict, train
from tests.support.bahe_world import LOG, M, Made, alone, config_of, fresh
from tests.support.ctr_world import RULE, samples_of, spec_of

HEADS = 3
SEVERAL = with_scales(parse_tasks(["like=value>=4", "love=value>=5", "stars=value"]), LOG, np.ones(LOG.size, bool))


def world(llm: Path, recipe: Recipe, **changes: object) -> tuple[Bahe, Samples]:
    spec = spec_of(LOG, **changes)
    samples = samples_of(spec, LOG, np.arange(LOG.size))
    samples = with_bank(samples, recipe, Made(llm, recipe))
    return fresh(spec, config_of(llm, recipe, heads=HEADS)), samples


def test_the_score_is_the_mean_of_heads_that_differ(llm: Path, recipe: Recipe) -> None:
    model, samples = world(llm, recipe)
    batch = model.eval().collator.collate(samples, alone(np.arange(20) + M))
    with torch.no_grad():
        every = model.logits(batch)
        labels = torch.arange(20) % 2.0
        loss = model.loss(batch, labels)
        assert every.shape == (20, HEADS)
        torch.testing.assert_close(loss.ctr, sum(summed_loss(head, labels) for head in every.T) / HEADS)
        assert loss.extra == 0.0
        torch.testing.assert_close(model(batch), every.mean(dim=1))
    assert min(float((every[:, a] - every[:, b]).abs().max()) for a in range(HEADS) for b in range(a)) > 1e-4


def test_what_one_head_learns_is_nothing_to_the_others(llm: Path, recipe: Recipe) -> None:
    """Another start of the second head: it ends elsewhere, and the first and the third where they ended before."""
    ended = []
    for other in (False, True):
        model, samples = world(llm, recipe)
        if other:
            with torch.no_grad():
                for weight in model.heads[1].parameters():
                    weight.add_(0.3)
        for shared in (model.unknown, model.nothing):  # they learn from all heads
            shared.register_hook(torch.zeros_like)
        rows = np.arange(LOG.size)
        config = TrainConfig(epochs=1, batch_size=20, lr=5e-3, unknown=0.0, average=0.9, pretrained_rate=0.0)
        train(model, samples, RULE.labels(LOG), (rows, rows), config)
        ended.append({name: weight.detach().clone() for name, weight in model.heads.named_parameters()})
    before, after = ended
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"1"}


def test_every_head_learns_every_task_and_what_they_share_is_balanced(llm: Path, recipe: Recipe) -> None:
    model, samples = world(llm, recipe, tasks=SEVERAL)
    rows, targets = np.arange(LOG.size), targets_of(SEVERAL, LOG)
    batch = model.eval().collator.collate(samples, alone(np.arange(20) + M))
    with torch.no_grad():
        assert model.logits(batch).shape == (20, HEADS, 3)
        assert model.loss(batch, torch.from_numpy(targets[np.arange(20) + M])).ctr.shape == (3,)
    config = TrainConfig(epochs=3, batch_size=20, lr=5e-3, unknown=0.0, average=0.9, balance="gdod", patience=9)
    epochs = train(model, samples, targets, (rows, rows), config)
    assert all(isinstance(epoch.steps, int) and epoch.steps > 0 for epoch in epochs)
    scores = predict(model, samples, rows)
    measured = metrics.by_task(SEVERAL, targets, scores)
    assert min(measured["like"], measured["love"]) > 0.6
    assert measured["stars"] < float(targets[:, 2].std())
