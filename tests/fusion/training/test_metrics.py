"""Metrics against values known by hand, by definition and by scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.features.slices import tail_items
from fusion.features.tasks import parse_tasks
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


def test_errors_of_a_number_are_in_its_own_unit() -> None:
    wanted, scores = np.array([1.0, 3.0, 5.0, 3.0]), np.array([2.0, 3.0, 3.0, 3.0])
    told = metrics.number_report(wanted, scores, {"first": np.array([True, False, False, False])})
    assert told["rmse"] == pytest.approx(math.sqrt(5 / 4))
    assert told["mae"] == pytest.approx(3 / 4)
    assert told["r2"] == pytest.approx(1 - (5 / 4) / 2)
    assert (told["first_rmse"], told["first_rows"]) == (1.0, 1.0)
    assert math.isnan(metrics.number_report(wanted[:0], scores[:0], {})["mae"])


def test_tasks_are_measured_where_they_have_targets_and_an_epoch_by_those_that_are_a_yes_or_no() -> None:
    tasks = parse_tasks(["like=value>=4", "stars=value", "none=value>=9", "rare=value>=5 if action=rate"])
    nan = math.nan
    targets = np.array([[0, 2, 0, nan], [1, 4, 0, nan], [0, nan, 0, 0], [1, 5, 0, 1]], np.float32)
    scores = np.column_stack([SCORES, [2.0, 4.0, 100.0, 4.0], SCORES, [nan, nan, 0.9, 0.1]])
    told = metrics.by_task(tasks, targets, scores)
    assert told == {"like": pytest.approx(3.5 / 4), "stars": pytest.approx(math.sqrt(1 / 3)), "rare": 0.0}
    assert metrics.mean_auc(tasks, told) == pytest.approx((3.5 / 4 + 0.0) / 2)
