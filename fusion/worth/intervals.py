"""Metrics of every run, and intervals of their differences: the bootstrap resamples users, and seeds on either side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fusion.features.log import Array
from fusion.training import metrics

REPEATS = 400  # of the bootstrap; the standard deviation is then known to 4 %
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What is known of the n test rows, whatever scores them."""

    labels: Array  # (n,) 0 or 1
    users: Array  # (n,)
    slices: Mapping[str, Array]  # (n,) bool each; AUC is measured inside


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference and its 95 % interval; of log loss less is better."""

    mean: float
    low: float
    high: float

    @property
    def beyond_zero(self) -> bool:
        return self.low > 0.0 or self.high < 0.0


def measured(rows: HeldOut, scores: Array) -> dict[str, float]:
    """auc, gauc, log_loss and the AUC of every slice."""
    out = {
        "auc": metrics.auc(rows.labels, scores),
        "gauc": metrics.gauc(rows.labels, scores, rows.users),
        "log_loss": metrics.log_loss(rows.labels, scores),
    }
    return out | {name: metrics.auc(rows.labels[own], scores[own]) for name, own in rows.slices.items()}


class Resampled:
    """The metrics of every run (variant, seed) in every resample of the users.

    The same resample of users serves all runs, so differences are paired; rows of a user stand or fall together.
    """

    def __init__(self, rows: HeldOut, runs: Mapping[str, Array], seed: int = 0) -> None:
        """runs: the scores of each variant, (S, n) of S seeds."""
        rng = np.random.default_rng(seed)
        names, user = np.unique(rows.users, return_inverse=True)
        self.users = len(names)
        self.names = ("auc", "gauc", "log_loss", *rows.slices)
        self.plain = {
            variant: np.array([list(measured(rows, one).values()) for one in own]) for variant, own in runs.items()
        }  # (S, metrics) each
        runners = {variant: [_Run(rows, user, len(names), one) for one in own] for variant, own in runs.items()}
        shape = (REPEATS, len(self.names))
        drawn = {variant: np.zeros((len(own), *shape)) for variant, own in runners.items()}
        for repeat in range(REPEATS):
            weight = rng.multinomial(len(names), np.full(len(names), 1 / len(names))).astype(np.float64)
            for variant, own in runners.items():
                for number, one in enumerate(own):
                    drawn[variant][number, repeat] = one.metrics(weight)
        self._drawn: dict[str, Array] = {}  # (repeats, metrics): means of as many seeds, drawn again in every resample
        for variant, each in drawn.items():
            chosen = rng.integers(len(each), size=(len(each), REPEATS))
            self._drawn[variant] = each[chosen, np.arange(REPEATS)].mean(0)

    def mean(self, variant: str) -> dict[str, float]:
        """Over the seeds."""
        return dict(zip(self.names, map(float, self.plain[variant].mean(0)), strict=True))

    def difference(self, ours: str, other: str) -> dict[str, Interval]:
        """`ours` - `other` in every metric."""
        gaps = self._drawn[ours] - self._drawn[other]  # (repeats, metrics)
        found = self.plain[ours].mean(0) - self.plain[other].mean(0)
        out: dict[str, Interval] = {}
        for at, name in enumerate(self.names):
            own = gaps[:, at][~np.isnan(gaps[:, at])]
            low, high = np.quantile(own, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(own) else (math.nan, math.nan)
            out[name] = Interval(float(found[at]), float(low), float(high))
        return out


class _Run:
    """One run's scores, ordered once, so that a resample costs a few sums."""

    def __init__(self, rows: HeldOut, user: Array, users: int, scores: Array) -> None:
        positive = rows.labels > 0
        parts = [np.ones(len(user), bool), *rows.slices.values()]
        self._orders = []
        for part in parts:
            order = np.flatnonzero(part)[np.argsort(scores[part], kind="stable")]
            self._orders.append((user[order], positive[order]))
        self._count: Array = np.bincount(user, minlength=users).astype(np.float64)
        p = np.clip(scores.astype(np.float64), metrics.EPSILON, 1 - metrics.EPSILON)
        self._loss: Array = np.bincount(user, -np.where(positive, np.log(p), np.log1p(-p)), users)
        self._area, self._weight = np.zeros(users), np.zeros(users)
        order = np.argsort(user, kind="stable")
        bounds = np.flatnonzero(np.diff(user[order])) + 1
        for own in np.split(order, bounds):
            if not math.isnan(area := metrics.auc(rows.labels[own], scores[own])):
                self._area[user[own[0]]], self._weight[user[own[0]]] = area, len(own)

    def metrics(self, weight: Array) -> list[float]:
        """With so many copies of each user: (U,)."""
        inside = weight * self._weight
        areas = [_area(positive, weight[user]) for user, positive in self._orders]
        gauc = float((inside * self._area).sum() / inside.sum()) if inside.sum() else math.nan
        loss = float((weight * self._loss).sum() / (weight * self._count).sum())
        return [areas[0], gauc, loss, *areas[1:]]


def _area(positive: Array, weight: Array) -> float:
    """Weighted AUC of rows in order of their scores; NaN where one class is missing."""
    right, wrong = np.where(positive, weight, 0.0), np.where(positive, 0.0, weight)
    total = right.sum() * wrong.sum()
    return float((right * (np.cumsum(wrong) - wrong / 2)).sum() / total) if total else math.nan
