"""Label rules and splits: what is a sample, of which class, and in which part."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fusion.features.dataset import slices_of
from fusion.features.labels import LabelRule, check_classes
from fusion.features.splits import eligible, split
from interest.errors import InputError
from tests.support.ctr_world import log_of


@pytest.mark.parametrize(
    ("rule", "labels"),
    [
        ("value>=4", [1, 0, -1]),
        (" value > 4 ", [1, 0, -1]),
        ("value=3", [0, 1, -1]),
        ("value!=3", [1, 0, -1]),
        ("action=rate", [1, 1, 1]),
        ("action!=rate", [0, 0, 0]),
    ],
)
def test_a_rule_labels_events_and_leaves_those_without_a_value(rule: str, labels: list[int]) -> None:
    log = log_of([(0, 0, 1.0, 5.0), (0, 1, 2.0, 3.0), (0, 2, 3.0, None)], 1, 3)
    assert LabelRule.parse(rule).labels(log).tolist() == labels
    assert LabelRule.parse(str(LabelRule.parse(rule))) == LabelRule.parse(rule)


@pytest.mark.parametrize("rule", ["", "rating>=4", "value>=", "value>=four", "action>=purchase"])
def test_an_unusable_rule_is_refused_with_an_example(rule: str) -> None:
    with pytest.raises(InputError, match="write for example"):
        LabelRule.parse(rule)


def test_samples_of_one_class_are_refused_with_what_the_log_holds() -> None:
    log = log_of([(0, 0, 1.0, 5.0), (0, 1, 2.0, 3.0)], 1, 2)
    rule = LabelRule.parse("value>=9")
    with pytest.raises(InputError, match="values lie between 3 and 5"):
        check_classes(rule.labels(log), rule, log)
    plays = dataclasses.replace(log, actions=["play", "pay"], value=np.full(2, np.nan, np.float32))
    with pytest.raises(InputError, match="no event has a value; use the action, for example --label 'action=play'"):
        check_classes(rule.labels(plays), rule, plays)
    rule = LabelRule.parse("action=purchase")
    with pytest.raises(InputError, match="the only action is rate; use the value"):
        check_classes(rule.labels(log), rule, log)


def test_the_global_split_is_by_time_and_equal_times_keep_the_order_of_the_store() -> None:
    at = [5.0, 6.0, 7.0, 8.0, 8.0, 1.0, 2.0, 3.0, 4.0, 8.0]
    log = log_of([(i // 5, i, t, 1.0) for i, t in enumerate(at)], 2, 10)
    assert split(log, "global").tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 2]


def test_the_split_inside_users_takes_the_same_shares_of_each() -> None:
    log = log_of([(u, i, float(i), 1.0) for u, n in ((0, 10), (1, 20)) for i in range(n)], 2, 20)
    assert split(log, "user").tolist() == [0] * 8 + [1] + [2] + [0] * 16 + [1] * 2 + [2] * 2
    assert np.flatnonzero(~eligible(log, 5)).tolist() == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


def test_slices_are_by_what_training_met() -> None:
    rows: list[tuple[int, int, float, float | None]] = [(0, 0, float(t), 4.0) for t in range(6)]
    rows += [(0, 1, 10.0 + t, 2.0) for t in range(4)] + [(1, 0, 20.0, 4.0), (1, 1, 21.0, 4.0), (1, 2, 22.0, 1.0)]
    log = log_of(rows, 2, 3)
    slices = slices_of(log, np.array([10, 11, 12]), items=np.arange(10), users=np.arange(10))
    assert slices["cold_items"].tolist() == [False, True, True]  # met 6, 4 and no times
    assert slices["cold_users"].tolist() == [True, True, True]
    assert not slices["tail"][2]  # what training never met is in no tail
    assert not slices_of(log, np.array([3]), items=np.arange(10), users=np.arange(10))["cold_users"].any()
