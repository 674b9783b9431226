"""Metrics against values known by hand, by definition and by scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.features.slices import tail_items
from fusion.training import metrics

LABELS = np.array([0, 1, 0, 1])
SCORES = np.array([0.1, 0.4, 0.4, 0.8])


def test_auc_counts_a_tie_as_one_half() -> None:
    assert metrics.auc(LABELS, SCORES) == pytest.approx(3.5 / 4)


def test_auc_of_one_class_is_undefined() -> None:
    assert math.isnan(metrics.auc(np.ones(3), np.arange(3.0)))
    assert math.isnan(metrics.auc(np.empty(0), np.empty(0)))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=50))
def test_auc_is_the_share_of_ordered_pairs(rows: list[tuple[bool, int]]) -> None:
    labels, scores = np.array([a for a, _ in rows]), np.array([b / 5 for _, b in rows])
    pairs = [(p > n) + (p == n) / 2 for p in scores[labels] for n in scores[~labels]]
    expected = np.mean(pairs) if pairs else math.nan
    assert metrics.auc(labels, scores) == pytest.approx(expected, nan_ok=True)


def test_auc_and_log_loss_agree_with_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 1000), rng.integers(1, 100, 1000) / 100
    assert metrics.auc(labels, scores) == pytest.approx(reference.roc_auc_score(labels, scores))
    assert metrics.log_loss(labels, scores) == pytest.approx(reference.log_loss(labels, scores))


def test_gauc_weighs_users_by_rows_and_leaves_out_those_of_one_class() -> None:
    labels = np.array([0, 1, 1, 0, 1, 1])
    scores = np.array([0.1, 0.9, 0.9, 0.2, 0.1, 0.3])
    users = np.array([7, 7, 8, 9, 9, 9])
    assert metrics.gauc(labels, scores, users) == pytest.approx((1.0 * 2 + 0.5 * 3) / 5)


def test_normalised_entropy_of_the_positive_rate_is_one() -> None:
    assert metrics.normalised_entropy(LABELS, np.full(4, 0.5)) == pytest.approx(1.0)


def test_calibration_is_promised_over_delivered() -> None:
    assert metrics.calibration(LABELS, np.full(4, 0.75)) == pytest.approx(1.5)
    assert metrics.calibration_error(LABELS, np.full(4, 0.75), bins=1) == pytest.approx(0.25)


def test_the_tail_is_the_least_frequent_items_that_were_trained_on() -> None:
    strict, bulk = tail_items(np.array([0, 50, 30, 1, 9, 10]))
    assert np.flatnonzero(strict).tolist() == [3]
    assert np.flatnonzero(bulk).tolist() == [3, 4, 5]
