"""The difference of two models' AUC on the same rows, with users resampled: rows of a user stand or fall together."""

from __future__ import annotations

import numpy as np

from fusion.features.log import Array

REPEATS = 500  # of the bootstrap; the standard deviation is then known to 3 %


def bootstrap(positive: Array, users: Array, ours: Array, other: Array) -> dict[str, float]:
    """Mean, standard deviation and the 95 % interval of `ours` - `other` in AUC.

    Both are scores of the same n rows: (n,), or (S, n) of S seeds, whose AUCs are averaged. Scores are not: the mean of
    several models' scores ranks better than each, so that the side with more seeds would be favoured.
    """
    rng = np.random.default_rng(0)
    names, user = np.unique(users, return_inverse=True)
    orders = [np.argsort(np.atleast_2d(scores), axis=1, kind="stable") for scores in (ours, other)]
    gaps = []
    for _ in range(REPEATS):
        weight = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))[user].astype(np.float64)
        left, right = (np.mean([area(positive, order, weight) for order in own]) for own in orders)
        gaps.append(left - right)
    low, high = np.quantile(gaps, [0.025, 0.975])
    return {
        key: round(float(v), 5)
        for key, v in (("mean", np.mean(gaps)), ("sd", np.std(gaps)), ("low", low), ("high", high))
    }


def area(positive: Array, order: Array, weight: Array) -> float:
    """AUC of n rows in rising order of their scores, each weighted; rows of equal scores count as `order` has them."""
    right, wrong = np.where(positive, weight, 0)[order], np.where(positive, 0, weight)[order]
    return float((right * (np.cumsum(wrong) - wrong / 2)).sum() / (right.sum() * wrong.sum()))
