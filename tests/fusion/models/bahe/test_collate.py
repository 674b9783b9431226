"""BAHE's training windows: moments of a user that share a pass score as alone, and none sees what came after it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import Engine

from fusion.bank.index import with_bank
from fusion.encoders.recipe import Recipe
from fusion.features.collate import BatchIndices, RowCollator
from fusion.features.log import Log
from fusion.features.samples import Samples
from fusion.models.bahe.collate import WINDOWS, BaheCollator
from fusion.models.bahe.model import Bahe
from fusion.training.artifact import load_artifact
from tests.support import processes
from tests.support.bahe_world import FORMS, THREE, Made, alone, config_of, fresh, logits, ready, shaken
from tests.support.ctr_world import DAY, fill, interest_vectors_of, log_of, random_rows, samples_of, spec_of
from tests.support.training_jobs import train_bahe

CLOSE = 1e-5  # float32 sums in another order
EACH, M, TOGETHER = 25, 6, 5
LOG = log_of(random_rows(1, user_count=12, each=EACH), 12, 40)
LONG = {name: {**form, "history": EACH} for name, form in FORMS.items() if name != "bidirectional"}
LONG["last"] = {"pooling": "last", "history": EACH}
SHORT = {name: {**form, "history": M} for name, form in LONG.items()}


@pytest.fixture(scope="module")
def made(llm: Path, recipe: Recipe) -> Made:
    return Made(llm, recipe)


def world(llm: Path, recipe: Recipe, made: Made, log: Log = LOG, **changes: object) -> tuple[Bahe, Samples]:
    spec = spec_of(log, partitions=3, text_width=32)
    model = fresh(spec, config_of(llm, recipe, pack=TOGETHER, **changes))
    shaken(model)
    samples = samples_of(spec, log, np.arange(log.size), interest_vectors_of(log))
    samples = with_bank(samples, recipe, made)
    return model.eval(), samples


def planned(samples: Samples, rows: np.ndarray, pack: int = TOGETHER, size: int = 60) -> list[BatchIndices]:
    collator = BaheCollator(("recent",), M, pack)
    return [shares[0] for shares in collator.epoch(samples, rows, size, np.random.default_rng(3), 1)]


def windows_of(chosen: BatchIndices) -> list[np.ndarray]:
    return np.split(np.arange(len(chosen)), np.cumsum(chosen.sizes)[:-1])


@pytest.mark.parametrize("form", list(LONG))
def test_moments_that_share_a_pass_score_as_alone(form: str, llm: Path, recipe: Recipe, made: Made) -> None:
    """To the rounding, as long as no history is longer than M; a user's first moment, without any, included."""
    model, samples = world(llm, recipe, made, **LONG[form])
    batches = planned(samples, np.arange(LOG.size))
    assert np.mean([len(chosen) / len(chosen.sizes) for chosen in batches]) > TOGETHER - 1
    for chosen in batches[:4]:
        single = logits(model, samples, alone(chosen.rows))
        np.testing.assert_allclose(logits(model, samples, chosen), single, atol=CLOSE)
        assert len(np.unique(np.round(single, 6))) == len(single)


@pytest.mark.parametrize("form", list(SHORT))
def test_beyond_m_the_first_moment_of_a_window_scores_as_alone(
    form: str, llm: Path, recipe: Recipe, made: Made
) -> None:
    """The later ones' states have seen the window's whole beginning, so a little more than M: they differ."""
    model, samples = world(llm, recipe, made, **SHORT[form])
    apart = 0.0
    for chosen in planned(samples, np.arange(LOG.size))[:4]:
        batch = model.collator.collate(samples, chosen)
        assert batch.visible.max() <= M + TOGETHER - 1
        assert batch.history.shape[1:] == (len(chosen.sizes), batch.visible.max())  # no wider than it has to be
        shared, single = logits(model, samples, chosen), logits(model, samples, alone(chosen.rows))
        first = np.cumsum(chosen.sizes) - chosen.sizes
        np.testing.assert_allclose(shared[first], single[first], atol=CLOSE)
        apart = max(apart, np.abs(shared - single).max())
    assert apart > 100 * CLOSE


@pytest.mark.parametrize("form", list(SHORT))
def test_beyond_m_training_pools_over_the_newest_m_as_scoring_does(
    form: str, llm: Path, recipe: Recipe, made: Made
) -> None:
    """The mean of what was read is that of the moment alone; as scoring gathers it, too."""
    model, samples = world(llm, recipe, made, **SHORT[form])
    d, beyond = model.high.width, 0
    for chosen in planned(samples, np.arange(LOG.size))[:4]:
        batch, single = (model.collator.collate(samples, one) for one in (chosen, alone(chosen.rows)))
        beyond += int((batch.visible > M).sum())
        with torch.no_grad():
            shared, own = model.encode_users(batch).pooled[batch.past], model.encode_users(single).pooled[single.past]
        np.testing.assert_allclose(shared[..., d:], own[..., d:], atol=CLOSE)
        for part in model.collator.score_batches(samples, chosen.rows):
            scored = model.collator.collate(samples, BatchIndices(chosen.rows[part.rows], part.sizes))
            with torch.no_grad():
                kept = model.encode_users(scored).pooled[scored.past]
            np.testing.assert_allclose(shared[torch.from_numpy(part.rows)][..., d:], kept[..., d:], atol=CLOSE)
    assert beyond > 100


@pytest.mark.parametrize("form", list(SHORT))
def test_nothing_in_a_window_sees_its_own_behaviour_or_what_came_after(
    form: str, llm: Path, recipe: Recipe, made: Made
) -> None:
    """Every behaviour from a moment on, inside the window too, may be anything: the moment scores the same."""
    model, samples = world(llm, recipe, made, **SHORT[form])
    rng = np.random.default_rng(0)
    moved = 0
    for chosen in planned(samples, np.arange(LOG.size))[:3]:
        before = logits(model, samples, chosen)
        for places in windows_of(chosen):
            k = places[len(places) // 2]
            row = chosen.rows[k]
            later = (LOG.user == LOG.user[row]) & (LOG.seq >= LOG.seq[row])
            item = np.where(later, rng.integers(0, 40, LOG.size), LOG.item).astype(np.int32)
            item[row] = LOG.item[row]  # what is offered at the moment itself
            value = np.where(later, rng.integers(1, 6, LOG.size), LOG.value).astype(np.float32)
            value[row] = 6.0 - LOG.value[row]  # and how it was liked is another
            other = samples_of(
                samples.spec,
                dataclasses.replace(LOG, item=item, value=value),
                np.arange(LOG.size),
                interest_vectors_of(LOG),
            )
            other.dense[:] = samples.dense  # other users' later counts are another law's
            other = with_bank(other, recipe, made)
            after = logits(model, other, chosen)
            np.testing.assert_allclose(after[places[0] : k + 1], before[places[0] : k + 1], atol=CLOSE)
            moved += int(np.abs(after[k + 1 : places[-1] + 1] - before[k + 1 : places[-1] + 1]).max(initial=0) > CLOSE)
    assert moved > 10  # those after it do see it


def test_a_moment_has_gradients_from_what_it_sees_alone(llm: Path, recipe: Recipe, made: Made) -> None:
    model, samples = world(llm, recipe, made, history=M, sequences=THREE)
    batch = model.collator.collate(samples, planned(samples, np.arange(LOG.size))[0])
    # every place of the histories and every item gets a vector of its own
    places = torch.arange(batch.history.numel()).view(batch.history.shape) + 2
    many = batch.history.numel() + 2
    inputs = torch.randn(many + len(batch.offered), batch.vectors.shape[1], requires_grad=True)
    own = dataclasses.replace(
        batch,
        item_row=torch.full((len(inputs),), 2),
        vectors=inputs,
        history=torch.where(batch.history > 0, places, 0),
        offered=torch.arange(many, len(inputs)),
    )
    score = model(own)
    for k in range(0, len(score), 7):
        (gradient,) = torch.autograd.grad(score[k], inputs, retain_graph=True)
        reached = set(torch.nonzero(gradient.abs().sum(dim=1))[:, 0].tolist())
        past = int(batch.past[k])
        seen = [places[n, batch.window[past], : batch.visible[n, past]].tolist() for n in range(len(places))]
        assert reached == {place for own in seen for place in own} | {many + int(batch.target[k])}


def test_each_sequence_of_a_past_is_the_newest_of_its_kind_before_the_moment(
    llm: Path, recipe: Recipe, made: Made
) -> None:
    model, samples = world(llm, recipe, made, history=M, sequences=THREE)
    assert samples.bank_index is not None
    liked = LOG.value >= 4
    for chosen in planned(samples, np.arange(LOG.size))[:4]:
        batch = model.collator.collate(samples, chosen)
        for places in windows_of(chosen):
            for k in places:
                start, row, past = LOG.starts[LOG.user[chosen.rows[k]]], chosen.rows[k], batch.past[k]
                head, before = np.arange(start, chosen.rows[places[0]]), np.arange(start, row)
                kinds = [np.ones(LOG.size, bool), liked, ~liked]
                for n, kind in enumerate(kinds):
                    wanted = before[kind[before]]
                    wanted = wanted[max(int(kind[head].sum()) - M, 0) :]  # M before the window, then all
                    seen = batch.history[n, batch.window[past], : batch.visible[n, past]].long()
                    expected = samples.bank_index.vectors[samples.bank_index.event[wanted]]
                    np.testing.assert_array_equal(batch.vectors[seen].numpy(), expected)


def test_moments_among_late_events_share_windows_only_with_their_own_past(
    llm: Path, recipe: Recipe, made: Made
) -> None:
    rng = np.random.default_rng(5)
    late = [
        (user, item, at - (80 * DAY if rng.random() < 0.1 else 0.0), value)
        for user, item, at, value in random_rows(1, user_count=12)
    ]
    log = log_of(late, 12, 40)
    model, samples = world(llm, recipe, made, log, history=EACH)
    assert len(np.unique(samples.impressions.first)) > 12
    batches = planned(samples, np.arange(log.size))
    np.testing.assert_array_equal(np.sort(np.concatenate([chosen.rows for chosen in batches])), np.arange(log.size))
    for chosen in batches:
        single = logits(model, samples, alone(chosen.rows))
        np.testing.assert_allclose(logits(model, samples, chosen), single, atol=CLOSE)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("pack", [1, 2, 5, 16, 100])
def test_a_plan_has_every_row_once_in_windows_of_one_users_neighbours(
    pack: int, processes: int, llm: Path, recipe: Recipe, made: Made
) -> None:
    _, samples = world(llm, recipe, made)
    rows, size = np.flatnonzero(np.arange(LOG.size) % 7 != 0), 40
    drawn = []
    for seed in (3, 4):
        plan = list(
            BaheCollator(("recent",), M, pack).epoch(samples, rows, size, np.random.default_rng(seed), processes)
        )
        shares = [share for batch in plan for share in batch]
        np.testing.assert_array_equal(np.sort(np.concatenate([share.rows for share in shares])), rows)
        assert all(len(batch) == processes for batch in plan)
        assert all(len(share) for share in shares)
        # the last batch may take in what is too little for one
        assert max(sum(map(len, batch)) for batch in plan[:-1]) <= size
        assert min(sum(len(share.sizes) for share in batch) for batch in plan[:-1]) >= WINDOWS
        for share in shares:
            for places in windows_of(share):
                window = share.rows[places]
                assert len(set(LOG.user[window])) == 1
                assert (np.diff(window) > 0).all()
                assert window[-1] - window[0] < pack
        drawn.append({tuple(share.rows[places]) for share in shares for places in windows_of(share)})
    assert (drawn[0] == drawn[1]) is (pack == 1)  # where windows are cut is drawn anew


def test_one_together_is_every_sample_on_its_own(llm: Path, recipe: Recipe, made: Made) -> None:
    model, samples = world(llm, recipe, made)
    rows = np.arange(LOG.size)

    def drawn(collator: RowCollator) -> list[BatchIndices]:
        return [shares[0] for shares in collator.epoch(samples, rows, 32, np.random.default_rng(0), 1)]

    for alone_, own in zip(drawn(RowCollator()), drawn(BaheCollator(("recent",), M, 1)), strict=True):
        np.testing.assert_array_equal(own.rows, alone_.rows)
        np.testing.assert_array_equal(own.sizes, alone_.sizes)
    both = world(llm, recipe, made, mask="bidirectional")[0]
    assert both.config.pack == TOGETHER
    assert {size for chosen in drawn(both.collator) for size in chosen.sizes.tolist()} == {1}
    assert {size for chosen in drawn(model.collator) for size in chosen.sizes.tolist()} > {1}
    with pytest.raises(ValueError, match="not a bidirectional one"):
        both.high.prefixes(torch.zeros(1, 2, both.high.width), torch.zeros(1).long(), torch.ones(1).long())


def test_the_newest_of_a_beginning_are_pooled(llm: Path, recipe: Recipe, made: Made) -> None:
    model, _ = world(llm, recipe, made)
    x = torch.randn(2, 9, model.high.width) + 50.0  # that all have much in common costs no digits that matter
    row, sizes = torch.tensor([0, 1, 1, 0, 0]), torch.tensor([9, 8, 3, 1, 0])
    with torch.no_grad():
        own, states = model.high.prefixes(x, row, sizes, 3), model.high.states(x)
    for place, (one, size) in enumerate(zip(row.tolist(), sizes.tolist(), strict=True)):
        newest = slice(max(size - 3, 0), size)
        wanted = torch.cat([states[one, newest], x[one, newest]], dim=1).sum(dim=0) / max(min(size, 3), 1)
        torch.testing.assert_close(own[place], wanted, atol=5 * CLOSE, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_beginning_is_pooled_as_if_it_were_all(pooling: str, llm: Path, recipe: Recipe, made: Made) -> None:
    model, _ = world(llm, recipe, made, pooling=pooling)
    x = torch.randn(3, 7, model.high.width)
    row, sizes = torch.tensor([0, 2, 2, 1, 0]), torch.tensor([7, 1, 4, 0, 6])
    with torch.no_grad():
        own = model.high.prefixes(x, row, sizes)
        whole = model.high(x[row], torch.arange(7) < sizes[:, None])
    torch.testing.assert_close(own, whole, atol=CLOSE, rtol=0)


def test_two_processes_learn_what_one_learns(store: Engine, llm: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Gradients are summed over shares of the same windows: without dropout the curves are equal but for rounding."""
    fill(store, random_rows(8, each=15))
    ready(store, recipe, llm, tmp_path / "banks")  # the bank is filled before two look at it
    url = store.url.render_as_string(hide_password=False)
    told = {
        count: processes.together(count, train_bahe, url, tmp_path / str(count), llm, tmp_path / "banks")
        for count in (1, 2)
    }
    (one, one_tested), (two, two_tested) = told[1], told[2]
    (one_loss, one_auc), (two_loss, two_auc) = np.transpose(one), np.transpose(two)
    np.testing.assert_allclose(two_loss, one_loss, rtol=1e-4)
    np.testing.assert_allclose(two_auc, one_auc, atol=6e-3)  # two pairs of rows that all but tie: each is .0027
    assert two_tested == pytest.approx(one_tested, abs=6e-3)
    assert load_artifact(tmp_path / "2").config.kind == "bahe"
