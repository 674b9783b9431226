"""Laws of the models: padding, batching and the order of candidates change nothing; unknown ids are scored."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fusion.features.impressions import impressions_at
from fusion.features.samples import Samples, make_samples
from fusion.models.din import Din, DinConfig
from fusion.training.train import predict
from tests.support.ctr_world import catalogue, interest_vectors_of, log_of, profiles, random_rows, samples_of, spec_of

CLOSE = 1e-5  # float32 sums in another order


@pytest.fixture(params=[False, True], ids=["plain", "interest"])
def trained(request: pytest.FixtureRequest) -> tuple[Din, Samples]:
    """A DIN with random weights of some size, so that no law holds because everything is zero."""
    log = log_of(random_rows(1), 30, 40)
    spec = spec_of(log, partitions=3, text_width=32)
    torch.manual_seed(0)
    model = Din(spec, DinConfig(interest=request.param))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
        model.item.weight[0] = 3.0  # the padding row may hold anything
        model.category.weight[0] = 0.0
    return model, samples_of(spec, log, np.arange(log.size), interest_vectors_of(log))


def test_a_row_alone_scores_as_in_a_batch_whose_padding_it_does_not_see(trained: tuple[Din, Samples]) -> None:
    model, samples = trained
    rows = np.array([0, 1, 7, 24, 25, 300, 749])  # no history, a short one, full ones
    together = predict(model, samples, rows)
    alone = [predict(model, samples, rows[i : i + 1])[0] for i in range(len(rows))]
    np.testing.assert_allclose(together, alone, atol=CLOSE)


def test_more_padding_changes_nothing(trained: tuple[Din, Samples]) -> None:
    model, samples = trained
    batch = samples.batch(np.array([2, 3, 30]))
    wider = {
        name: torch.nn.functional.pad(getattr(batch, name), (0, 4))
        for name in ("history", "value", "label", "action", "gap")
    }
    wider["partitions"] = torch.nn.functional.pad(batch.partitions[:, :2], (0, 1), value=-1)
    model.eval()
    with torch.no_grad():
        padded = model(dataclasses.replace(batch, **wider))
        np.testing.assert_allclose(padded.numpy(), model(batch).numpy(), atol=CLOSE)


def test_the_order_of_candidates_only_permutes_their_scores(trained: tuple[Din, Samples]) -> None:
    model, samples = trained
    log = log_of(random_rows(1), 30, 40)
    book, people = catalogue(40), profiles(30)

    def scores(offered: np.ndarray) -> np.ndarray:
        impressions, past = impressions_at(log, np.full(len(offered), 3), offered, float(log.at.max()) + 1)
        own = make_samples(samples.spec, log, impressions, past, items=log.items, catalogue=book, profiles=people)
        return predict(model, own, np.arange(len(offered)))

    offered = np.arange(40)
    order = np.random.default_rng(0).permutation(40)
    assert len(np.unique(scores(offered))) > 30
    np.testing.assert_allclose(scores(offered[order]), scores(offered)[order], atol=CLOSE)


def test_unknown_items_users_and_values_score_finite(trained: tuple[Din, Samples]) -> None:
    model, samples = trained
    strange = log_of([(0, 39, 1e9, None), (0, 60, 2e9, 9e9), (1, 61, -1e9, -9e9)], 50, 70)
    scores = predict(model, samples_of(samples.spec, strange, np.arange(3), interest_vectors_of(strange)), np.arange(3))
    assert np.isfinite(scores).all()
    assert ((scores > 0) & (scores < 1)).all()
