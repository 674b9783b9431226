"""Laws of match scalars: no future, not their own outcome, and what a slow definition says."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.features.log import Log
from fusion.features.match.features import (
    FOLDS,
    Match,
    fold_of,
    hidden_items,
    match_items,
    trained_numbers,
)
from fusion.features.match.scalars import FLOOR, LOOKS_BACK, SHARPNESS
from fusion.training.metrics import auc
from tests.support.ctr_world import DAY, RULE, log_of
from tests.support.match_world import MatchWorld
from tests.support.random_logs import ITEMS, ROWS, USERS, visible

CLOSE = 2e-5  # float32 sums in another order
WORLD = MatchWorld()


@cache
def fitted() -> Match:
    return WORLD.fit()


def changed(log: Log, which: np.ndarray, seed: int = 0) -> Log:
    """The log with other items and values in the events `which` ((N,) bool)."""
    rng = np.random.default_rng(seed)
    return dataclasses.replace(
        log,
        item=np.where(which, rng.integers(0, len(log.items), log.size), log.item).astype(np.int32),
        value=np.where(which, rng.integers(1, 6, log.size), log.value).astype(np.float32),
    )


@settings(deadline=None, max_examples=15)
@given(rows=ROWS, pick=st.integers(0, 10**6), seed=st.integers(0, 10**6))
def test_later_events_change_nothing(rows: list, pick: int, seed: int) -> None:
    match = fitted()
    log = log_of(rows, USERS, ITEMS)
    row = pick % log.size
    own = log.user == log.user[row]
    later = own & ((log.seq > log.seq[row]) | (log.at > log.at[row])) | ~own
    later[row] = False
    moved = changed(log, later, seed)
    value = moved.value.copy()
    value[row] = seed % 5 + 1  # its own outcome is what is to be predicted
    shift = np.where(later & own, np.random.default_rng(seed).integers(1, 50, log.size) * DAY, 0.0)
    moved = dataclasses.replace(moved, value=value, at=log.at + shift)
    nobody = np.zeros(log.size, bool)
    before = MatchWorld(log, train=nobody).features(match, np.array([row]))
    after = MatchWorld(moved, train=nobody).features(match, np.array([row]))
    interests = [
        i for i, name in enumerate(WORLD.spec.names) if not name.startswith("interest")
    ]  # theirs: other vectors
    np.testing.assert_allclose(before[:, interests], after[:, interests], atol=CLOSE)


def test_events_after_the_cut_change_nothing_that_a_training_row_reads() -> None:
    world = WORLD
    other = MatchWorld(changed(world.log, ~world.train), train=world.train)
    training = np.flatnonzero(world.train)
    before, after = world.features(fitted(), training), other.features(other.fit(), training)
    assert np.abs(before).max() > 0.1
    np.testing.assert_allclose(before, after, atol=CLOSE)


@pytest.mark.parametrize("seed", range(3))
def test_a_training_row_does_not_read_its_own_outcome(seed: int) -> None:
    world = WORLD
    row = int(np.random.default_rng(seed).choice(np.flatnonzero(world.train)))
    value = world.log.value.copy()
    value[row] = 1.0 if value[row] >= 4 else 5.0
    other = MatchWorld(dataclasses.replace(world.log, value=value), train=world.train)
    before, after = fitted(), other.fit()
    own = fold_of(world.log.users)[world.log.user[row]]
    np.testing.assert_allclose(before.folds[own].place, after.folds[own].place, atol=CLOSE)
    assert np.abs(before.space.place - after.space.place).max() > 1e-3  # what it would read without folds
    np.testing.assert_allclose(
        world.features(before, np.array([row])), other.features(after, np.array([row])), atol=CLOSE
    )


@settings(deadline=None, max_examples=15)
@given(rows=ROWS)
def test_the_scalars_are_those_of_a_slow_count(rows: list) -> None:
    match = fitted()
    space = match.space
    asked = MatchWorld(log_of(rows, USERS, ITEMS), train=np.zeros(len(rows), bool))
    features, log = asked.features(match), asked.log
    place, bias = space.items(np.full(ITEMS, -1), asked.text)
    labels, standard = RULE.labels(log), space.standard(log.value.astype(np.float64))
    for kind, vectors in (("text", space.centred(asked.text)), ("place", place)):
        for row in range(log.size):
            seen = visible(log, row)[-LOOKS_BACK:]
            says = seen[~np.isnan(log.value[seen])]
            residual = standard[says] - bias[log.item[says]]
            usual = residual.sum() / (len(says) + 5)
            similar = vectors[log.item[says]] @ vectors[log.item[row]]
            weight = np.exp(SHARPNESS * (similar - 1))
            want = (weight * (residual - usual)).sum() / (weight.sum() + np.exp(SHARPNESS * (FLOOR - 1)))
            assert asked.column(features, f"{kind}_close")[row] == pytest.approx(want, abs=1e-4)
            liked = (vectors[log.item[says]] @ vectors[log.item[row]])[labels[says] == 1]
            assert asked.column(features, f"{kind}_liked")[row] == pytest.approx(
                liked.max() if len(liked) else 0, abs=1e-5
            )
    text = space.centred(asked.text)
    for row in range(log.size):
        seen = visible(log, row)[-LOOKS_BACK:]
        silent = text[log.item[seen[np.isnan(log.value[seen])]]] @ text[log.item[row]]  # the label says nothing of them
        for name, want in (("most", silent.max(initial=-1)), ("mean", silent.sum() / max(len(silent), 1))):
            told = asked.column(features, f"known_{name}")[row]
            assert told == pytest.approx(want if len(silent) else 0, abs=1e-5)
    whole = [visible(log, row) for row in range(log.size)]
    for row, seen in enumerate(whole):
        says = seen[~np.isnan(log.value[seen])]
        residual = standard[says] - bias[log.item[says]]
        rest = residual - residual.sum() / (len(says) + 5)
        want = (rest[:, None] * place[log.item[says]]).sum(axis=0) @ place[log.item[row]] / (len(says) + 10)
        assert asked.column(features, "place_taste")[row] == pytest.approx(want, abs=1e-4)


def test_a_candidate_reads_the_same_alone_and_among_others_in_any_order() -> None:
    world, match = WORLD, fitted()
    together = world.features(match)
    order = np.random.default_rng(0).permutation(world.log.size)
    np.testing.assert_allclose(world.features(match, order), together[order], atol=CLOSE)
    for row in (5, 300, world.log.size - 1):
        np.testing.assert_allclose(world.features(match, np.array([row]))[0], together[row], atol=CLOSE)


def test_an_item_without_text_and_without_events_is_matched_with_nothing() -> None:
    world = WORLD
    space = fitted().space
    place, bias = space.items(np.array([-1, -1, 0]), np.zeros((3, world.text.shape[1]), np.float32))
    assert not place[:2].any()
    assert not bias[:2].any()
    assert place[2].any()
    nowhere = MatchWorld()
    nowhere.text = np.zeros_like(nowhere.text)
    assert np.isfinite(nowhere.features(nowhere.fit())).all()


def test_an_item_that_nobody_has_met_is_found_by_its_text() -> None:
    """Users like kinds of items and texts tell kinds; what is said of the newest items rests on their texts alone."""
    world = MatchWorld()
    cold = world.log.item >= 32
    world.train = world.train & ~cold
    features = world.features(world.fit())
    asked = np.flatnonzero(cold & (world.log.seq >= 10) & world.text[world.log.item].any(axis=1))
    liked = RULE.labels(world.log)[asked]
    for name in ("text_close", "place_close", "place_taste"):
        assert auc(liked, world.column(features, name)[asked]) > 0.6


def test_items_hidden_from_a_fold_are_read_by_its_training_rows_as_if_nobody_had_met_them() -> None:
    """Other rows read every item as it is, and no row reads its own user's space."""
    match, log, numbers = fitted(), WORLD.log, trained_numbers(WORLD.log, WORLD.train)
    features, fold = WORLD.features(match), fold_of(log.users)[log.user]
    hidden = np.array([hidden_items(log.items, number) for number in range(FOLDS)])[fold, log.item] & WORLD.train
    assert 0.02 < hidden[WORLD.train].mean() < 0.5
    spaces = [
        match.folds[number] if training else match.space for number, training in zip(fold, WORLD.train, strict=True)
    ]
    support = [space.support_of(numbers[[item]])[0] for space, item in zip(spaces, log.item, strict=True)]
    told = np.where(hidden, 0.0, support)
    np.testing.assert_allclose(WORLD.column(features, "place_support"), told, atol=1e-6)
    unmet = WORLD.impressions(np.arange(log.size))
    for number in range(FOLDS):
        rows = np.flatnonzero(hidden & (fold == number))
        bare = match_items(WORLD.spec, match.folds[number], np.full(len(log.items), -1), WORLD.text)
        bias = WORLD.column(features, "place_bias")[rows]
        np.testing.assert_allclose(bias, bare.bias[unmet[0].item[rows]], atol=CLOSE)
