"""Laws of the models that read keys: batching and folding change nothing, unknowns score, candidates permute."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from fusion.features.collate import BatchIndices
from fusion.features.impressions import impressions_at
from fusion.features.log import Log
from fusion.features.samples import Batch, Samples, make_samples
from fusion.features.spec import FIRST, UNKNOWN
from fusion.models import scenes
from fusion.models.din import DinConfig
from fusion.models.kv.model import KvConfig
from fusion.models.protocol import CtrModel, ModelConfig
from fusion.models.registry import build
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4CtrConfig
from fusion.training.train import _with_unknown, predict
from tests.support.bahe_world import shaken
from tests.support.ctr_world import log_of, profiles, random_rows
from tests.support.key_world import arrays, book, samples_of, scened, spec_of

CLOSE = 1e-5  # float32 sums in another order
LOG = log_of(random_rows(1, 12), 12, 40)
CONFIGS: dict[str, ModelConfig] = {
    "kv": KvConfig(width=8),
    "din": DinConfig(width=8, keys=True),
    "srp4ctr": Srp4CtrConfig(encoder=FgBertConfig(positions=9, width=16), pack=5, queries=2, keys=True),
}


@pytest.fixture(params=CONFIGS)
def trained(request: pytest.FixtureRequest) -> tuple[CtrModel, Samples]:
    return shaken_model(request.param)


def shaken_model(name: str, log: Log = LOG) -> tuple[CtrModel, Samples]:
    """Random weights of some size, so that no law holds because everything is zero."""
    spec = spec_of(log)
    torch.manual_seed(0)
    model = build(spec, CONFIGS[name])
    shaken(model)  # type: ignore[arg-type]
    model.eval()
    return model, samples_of(spec, log, np.arange(log.size))


def test_a_row_alone_scores_as_in_a_batch(trained: tuple[CtrModel, Samples]) -> None:
    model, samples = trained
    rows = np.array([0, 1, 7, 24, 25, 299])  # no past, a short one, longer ones
    together = predict(model, samples, rows)
    np.testing.assert_allclose(together, [predict(model, samples, rows[i : i + 1])[0] for i in range(6)], atol=CLOSE)


def test_the_keys_are_read(trained: tuple[CtrModel, Samples]) -> None:
    model, samples = trained
    rows = np.array([20, 21, 22])
    chosen = BatchIndices(rows, np.ones(3, np.int64))
    with torch.no_grad():
        batch = model.collator.collate(samples, chosen)
        keys = batch.candidates.keys if hasattr(batch, "candidates") else batch.keys
        before = model(batch).numpy()
        for part in (keys.attended, keys.matched, keys.cells):
            part.add_(1.0)
            after = model(batch).numpy()
            assert (np.abs(after - before) > 100 * CLOSE).all()
            before = after


@pytest.mark.parametrize("name", ["kv", "din"])  # SRP4CTR's: tests/laws/test_live_scoring.py
def test_candidates_of_one_user_share_what_does_not_depend_on_them(name: str) -> None:
    model, samples = shaken_model(name)
    offered = np.arange(40)
    impressions, past = impressions_at(LOG, np.full(40, 3), offered, float(LOG.at.max()) + 1)
    own = make_samples(samples.spec, LOG, impressions, past, items=LOG.items, catalogue=book(40), profiles=profiles(12))
    with torch.no_grad():
        apart, folded = model(own.batch(offered)), model(own.batch(offered, together=True))
        np.testing.assert_allclose(folded.numpy(), apart.numpy(), atol=CLOSE * 10)
        order = np.random.default_rng(0).permutation(40)
        np.testing.assert_allclose(
            model(own.batch(order, together=True)).numpy(), folded.numpy()[order], atol=CLOSE * 10
        )
    assert len(np.unique(apart.numpy())) > 30


def test_an_item_that_is_shown_as_unknown_is_unknown_as_a_key_too(trained: tuple[CtrModel, Samples]) -> None:
    model, samples = trained
    rows = np.arange(60)
    batch = model.collator.collate(samples, BatchIndices(rows, np.ones(60, np.int64)))
    torch.manual_seed(0)
    shown = _with_unknown(batch, 0.5)
    (before, _), (after, item_row) = (keys_and_items(one) for one in (batch, shown))
    unknown = item_row == UNKNOWN
    assert 10 < int(unknown.sum()) < 50
    assert (after[unknown, 0] == UNKNOWN).all()
    assert torch.equal(after[~unknown, 0], before[~unknown, 0])
    assert torch.equal(after[:, 1:], before[:, 1:])
    assert (before[:, 0] > UNKNOWN).all()  # the batch is as it was


@pytest.mark.parametrize("name", CONFIGS)
def test_the_keys_do_not_tell_a_scene_that_training_hides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "HIDDEN", 1.0)
    model, samples = shaken_model(name, scened(LOG))
    nowhere = dataclasses.replace(samples, scene=np.full(len(samples), UNKNOWN, np.int32))
    rows = np.arange(10, 30)
    chosen = BatchIndices(rows, np.ones(20, np.int64))
    told, unknown = (model.collator.collate(one, chosen) for one in (samples, nowhere))
    with torch.no_grad():
        assert (model(told) - model(unknown)).abs().max() > 100 * CLOSE
        model.scene.train()  # type: ignore[attr-defined]
        np.testing.assert_allclose(model(told).numpy(), model(unknown).numpy(), atol=CLOSE)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_the_keys_tell_moves_with_the_scene_of_the_offer(name: str) -> None:
    model, samples = shaken_model(name, scened(LOG))
    heard: list[torch.Tensor] = []
    model.keys.register_forward_hook(lambda *call: heard.append(call[-1]))  # type: ignore[attr-defined]
    for row in (FIRST, FIRST + 1, UNKNOWN):
        predict(model, dataclasses.replace(samples, scene=np.full(len(samples), row, np.int32)), np.arange(20, 22))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (heard[one] - heard[other]).abs().max() > 100 * CLOSE


def keys_and_items(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The candidates' rows as keys (B, X), and the rows of their items (B,)."""
    if isinstance(batch, Batch):
        assert batch.keys is not None
        return batch.keys.matched_row, batch.item_row[batch.target.long()]
    own = batch.candidates
    return own.keys.matched_row, batch.item_row[own.target.flatten()[own.slot].long()]


def test_unknown_items_users_and_values_score_finite(trained: tuple[CtrModel, Samples]) -> None:
    model, samples = trained
    strange = log_of([(0, 39, 1e9, None), (0, 60, 2e9, 9e9), (0, 60, 2e9, 1.0), (1, 61, -1e9, -9e9)], 50, 70)
    own = samples_of(samples.spec, strange, np.arange(4))
    assert np.isfinite(predict(model, own, np.arange(4))).all()
    keys = own.batch(np.arange(4)).keys
    assert keys is not None
    for part in arrays(keys)[1::2]:  # vectors stay of a size, whatever a behaviour's value is
        assert np.abs(part).max() < 15


def test_several_tasks_have_a_logit_each(trained: tuple[CtrModel, Samples]) -> None:
    model, samples = trained
    spec = samples.spec
    two = msgspec.structs.replace(spec, tasks=(*spec.tasks, msgspec.structs.replace(spec.tasks[0], name="other")))
    several = build(two, model.config)  # type: ignore[attr-defined]
    rows = np.arange(10, 20)
    assert predict(several, samples_of(two, LOG, np.arange(LOG.size)), rows).shape == (10, 2)
