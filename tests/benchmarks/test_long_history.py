"""benchmarks/long_history.py: what is planted is old, is asked late, and is told by the item's maker alone."""

from __future__ import annotations

import numpy as np

from benchmarks.history.logs import OF_ONE, SURE, planted
from fusion.features.splits import TEST, TRAIN, VALID
from fusion.training.metrics import auc

USERS, EVENTS, SAMPLES = 6, 2_000, 60


def test_a_planted_taste_is_told_in_the_first_third_and_asked_in_the_last_forty_per_cent() -> None:
    source = planted(USERS, EVENTS, SAMPLES)
    log, rows = source.log, source.rows
    assert (log.position()[rows] >= 0.6 * EVENTS).all()
    assert np.bincount(source.part).tolist() == [USERS * n for n in (42, 6, 12)]
    assert not source.train[rows[source.part != TRAIN]].any()  # nothing is fitted to what is asked
    assert source.train[rows[source.part == TRAIN]].all()
    assert {TRAIN, VALID, TEST} == set(np.unique(source.part))
    labels = log.value >= 4
    maker = log.item // OF_ONE
    agreed = []
    for row in rows:
        first = log.starts[log.user[row]]
        old = np.arange(first, first + int(0.3 * EVENTS))
        own = old[maker[old] == maker[row]]
        assert len(own) == 10  # the user has met the maker, long ago
        between = np.arange(first + int(0.3 * EVENTS), first + int(0.6 * EVENTS))
        assert maker[row] not in maker[between]
        agreed.append((labels[own].mean() > 0.5) == labels[row])
    assert abs(np.mean(agreed) - SURE) < 0.08
    assert source.truth is not None
    assert 0.75 < auc(labels[rows].astype(np.int8), source.truth) < 0.95
