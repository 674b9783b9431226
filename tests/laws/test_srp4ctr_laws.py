"""Laws of SRP4CTR: what is folded scores as what is not, users never see candidates, nothing sees its future."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from fusion.features.collate import BatchIndices
from fusion.features.impressions import impressions_at
from fusion.features.packed_windows import PackedBatch, PackedCollator
from fusion.features.samples import Samples, make_samples
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import CrossLayer, Srp4Ctr, UserState, ablations
from fusion.training.train import predict
from tests.support.ctr_world import (
    DAY,
    catalogue,
    interest_vectors_of,
    log_of,
    profiles,
    random_rows,
    samples_of,
    spec_of,
)

CLOSE = 1e-5  # float32 sums in another order
TOGETHER = 5
ENCODER = FgBertConfig(positions=10 + TOGETHER - 1, width=16)
LOG = log_of(random_rows(1), 30, 40)


def shaken(model: nn.Module) -> None:
    """Random weights of some size, so that no law holds because everything is zero; padding holds anything."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)


@pytest.fixture(params=["full", "no-cross", "no-querying", "mp", "interest", "lifelong"])
def trained(request: pytest.FixtureRequest) -> tuple[Srp4Ctr, Samples]:
    spec = spec_of(LOG, partitions=3, text_width=32)
    torch.manual_seed(0)
    more = {request.param: True} if request.param in ("interest", "lifelong") else {}
    model = Srp4Ctr(spec, ablations(ENCODER, pack=TOGETHER, **more)["full" if more else request.param])
    shaken(model)
    return model.eval(), samples_of(spec, LOG, np.arange(LOG.size), interest_vectors_of(LOG))


def alone(rows: np.ndarray) -> BatchIndices:
    return BatchIndices(rows, np.ones(len(rows), np.int64))


@torch.no_grad()
def logits(model: Srp4Ctr, samples: Samples, chosen: BatchIndices) -> np.ndarray:
    return np.asarray(model(model.collator.collate(samples, chosen)).numpy())


def test_a_row_alone_scores_as_in_a_batch_whose_padding_it_does_not_see(trained: tuple[Srp4Ctr, Samples]) -> None:
    model, samples = trained
    rows = np.array([0, 1, 7, 24, 25, 300, 749])  # no history, a short one, full ones
    single = [logits(model, samples, alone(rows[i : i + 1]))[0] for i in range(len(rows))]
    np.testing.assert_allclose(logits(model, samples, alone(rows)), single, atol=CLOSE)
    np.testing.assert_allclose(predict(model, samples, rows), 1 / (1 + np.exp(-np.array(single))), atol=CLOSE)


def test_more_padding_changes_nothing(trained: tuple[Srp4Ctr, Samples]) -> None:
    model, samples = trained
    batch = model.collator.collate(samples, alone(np.array([2, 3, 4])))
    pad = torch.nn.functional.pad
    users = dataclasses.replace(
        batch.users,
        event=pad(batch.users.event, (3, 0)),
        behavior=pad(batch.users.behavior, (0, 0, 3, 0), value=1),
        prefix=batch.users.prefix + 3,
        partitions=pad(batch.users.partitions, (0, 2), value=-1)[:, :3],
    )
    candidates = dataclasses.replace(
        batch.candidates,
        visible=batch.candidates.visible + 3,
        age=pad(batch.candidates.age, (3, 0)),
        target=pad(batch.candidates.target, (0, 2)),
    )
    slots = candidates.target.shape[1]
    candidates = dataclasses.replace(
        candidates,
        visible=pad(candidates.visible, (0, 2)),
        age=pad(candidates.age, (0, 0, 0, 2)),
        slot=torch.arange(3) * slots,
    )
    with torch.no_grad():
        padded = model(PackedBatch(batch.items, users, candidates)).numpy()
        np.testing.assert_allclose(padded, model(batch).numpy(), atol=CLOSE)


def offers(samples: Samples, offered: np.ndarray, user: int = 3) -> Samples:
    impressions, past = impressions_at(LOG, np.full(len(offered), user), offered, float(LOG.at.max()) + 1)
    return make_samples(
        samples.spec, LOG, impressions, past,
        items=LOG.items, catalogue=catalogue(40), profiles=profiles(30), interest_vectors=interest_vectors_of(LOG),
    )  # fmt: skip


def test_folded_is_unfolded_and_the_order_of_candidates_only_permutes_their_scores(
    trained: tuple[Srp4Ctr, Samples],
) -> None:
    model, samples = trained
    own, every = offers(samples, np.arange(40)), np.arange(40)
    parts = list(model.collator.score_batches(own, every))
    assert [part.sizes.tolist() for part in parts] == [[40]]  # one window for one user at one moment
    folded = predict(model, own, every)
    unfolded = logits(model, own, alone(every))
    np.testing.assert_allclose(folded, 1 / (1 + np.exp(-unfolded)), atol=CLOSE)
    assert len(np.unique(unfolded.round(4))) > 30  # of logits: random weights may push every probability towards 1
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(predict(model, offers(samples, order), every), folded[order], atol=CLOSE)


def flat(state: UserState) -> list[torch.Tensor]:
    tensors = [*state.keys, *state.values, state.states, state.queried, state.interest, state.lifelong]
    return [tensor for tensor in tensors if tensor is not None]


def test_candidates_never_influence_user_states(trained: tuple[Srp4Ctr, Samples]) -> None:
    model, samples = trained
    states = []
    with torch.no_grad():
        for offered in (np.array([1, 2, 3]), np.array([30, 5, 39])):
            own = offers(samples, offered)
            batch = model.collator.collate(own, BatchIndices(np.arange(3), np.array([3])))
            states.append(flat(model.encode_user(batch.users, batch.items)))
    for left, right in zip(*states, strict=True):
        assert torch.equal(left, right)


def test_keys_and_values_are_the_encoders_own(trained: tuple[Srp4Ctr, Samples]) -> None:
    """A candidate's layer has no key or value weights: it is handed the tensors that the encoder's projections made."""
    model, samples = trained
    if not model.config.cross:
        return
    for cross, layer in zip(model.cross, model.encoder.layers, strict=True):
        assert isinstance(cross, CrossLayer)
        assert not any("key" in name or "value" in name for name, _ in cross.named_parameters())
        shared = {weight.data_ptr() for weight in layer.parameters()}
        assert not shared & {weight.data_ptr() for weight in cross.parameters()}  # query, output, FFN, norms: own
    handed: list[tuple[torch.Tensor, torch.Tensor]] = []
    hooks = [cross.register_forward_pre_hook(lambda _, inputs: handed.append(inputs[1:3])) for cross in model.cross]
    batch = model.collator.collate(samples, alone(np.array([24, 49])))
    items = model.encoder.items(batch.items)
    state = model._encode(batch.users, items)
    model.tower.logits(*model._hidden(state, batch.candidates, items)).sum().backward()
    for hook in hooks:
        hook.remove()
    for (keys, values), own_keys, own_values in zip(handed, state.keys, state.values, strict=True):
        assert keys.data_ptr() == own_keys.data_ptr()
        assert values.data_ptr() == own_values.data_ptr()
    for layer in model.encoder.layers:  # and what candidates need of them trains those projections
        assert layer.key.weight.grad.abs().max() > 0
        assert layer.value.weight.grad.abs().max() > 0


def windows(samples: Samples, rows: np.ndarray) -> list[BatchIndices]:
    return [shares[0] for shares in PackedCollator(TOGETHER).epoch(samples, rows, 20, np.random.default_rng(3), 1)]


def test_a_plan_has_every_row_once_and_windows_of_one_users_neighbours(trained: tuple[Srp4Ctr, Samples]) -> None:
    _, samples = trained
    rows = np.flatnonzero(np.arange(LOG.size) % 7 != 0)
    planned = windows(samples, rows)
    np.testing.assert_array_equal(np.sort(np.concatenate([chosen.rows for chosen in planned])), rows)
    assert max(len(chosen) for chosen in planned) <= 20
    for chosen in planned:
        for window in np.split(chosen.rows, np.cumsum(chosen.sizes)[:-1]):
            assert len(set(LOG.user[window])) == 1
            assert window[-1] - window[0] < TOGETHER


def test_nothing_in_a_training_window_sees_what_came_after_it(trained: tuple[Srp4Ctr, Samples]) -> None:
    """Every later event of the user, inside the window too, may be anything: an earlier moment scores the same."""
    model, samples = trained
    rng = np.random.default_rng(0)
    for chosen in windows(samples, np.arange(LOG.size))[:6]:
        before = logits(model, samples, chosen)
        for window, first in zip(
            np.split(chosen.rows, np.cumsum(chosen.sizes)[:-1]), np.cumsum(chosen.sizes) - chosen.sizes, strict=True
        ):
            k = len(window) // 2
            later = (LOG.user == LOG.user[window[k]]) & (LOG.seq >= LOG.seq[window[k]])
            item = np.where(later, rng.integers(0, 40, LOG.size), LOG.item)
            item[window[k]] = LOG.item[window[k]]  # what is offered at the moment itself
            changed = dataclasses.replace(
                LOG,
                item=item.astype(np.int32),
                value=np.where(later, rng.integers(1, 6, LOG.size), LOG.value).astype(np.float32),
                at=LOG.at + np.where(later & (LOG.seq > LOG.seq[window[k]]), 50 * DAY, 0.0),
            )
            other = samples_of(samples.spec, changed, np.arange(LOG.size), interest_vectors_of(LOG))
            other.dense[:] = samples.dense  # other users' later counts are another law's
            after = logits(model, other, chosen)
            np.testing.assert_allclose(after[first : first + k + 1], before[first : first + k + 1], atol=CLOSE)


def test_the_first_moment_of_a_window_scores_as_alone(trained: tuple[Srp4Ctr, Samples]) -> None:
    model, samples = trained
    for chosen in windows(samples, np.arange(LOG.size))[:6]:
        first = np.cumsum(chosen.sizes) - chosen.sizes
        single = logits(model, samples, alone(chosen.rows[first]))
        np.testing.assert_allclose(logits(model, samples, chosen)[first], single, rtol=CLOSE, atol=CLOSE)


def test_unknown_items_users_and_values_score_finite(trained: tuple[Srp4Ctr, Samples]) -> None:
    model, samples = trained
    strange = log_of([(0, 39, 1e9, None), (0, 60, 2e9, 9e9), (1, 61, -1e9, -9e9)], 50, 70)
    scores = predict(model, samples_of(samples.spec, strange, np.arange(3), interest_vectors_of(strange)), np.arange(3))
    assert np.isfinite(scores).all()
    assert ((scores > 0) & (scores < 1)).all()
