"""What a model is judged by. Labels are 0/1, scores are probabilities; both (n,). Undefined values are NaN."""

from __future__ import annotations

import math

import numpy as np

from fusion.features.log import Array
from fusion.features.scenes import SCENE
from fusion.features.tasks import Tasks

NAN = float("nan")
EPSILON = 1e-7


def auc(labels: Array, scores: Array) -> float:
    """Area under the ROC curve; tied scores count one half (Mann-Whitney with mean ranks)."""
    positive = labels > 0
    n, p = len(labels), int(positive.sum())
    if p in (0, n):
        return NAN
    return float((_mean_ranks(scores)[positive].sum() - p * (p + 1) / 2) / (p * (n - p)))


def _mean_ranks(scores: Array) -> Array:
    """Ranks from 1; equal scores share the mean of their ranks."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def gauc(labels: Array, scores: Array, groups: Array) -> float:
    """AUC inside every user, weighted by the user's samples; users of one class are left out (DIN, section 5.2)."""
    order = np.argsort(groups, kind="stable")
    labels, scores, groups = labels[order], scores[order], groups[order]
    bounds = np.flatnonzero(np.diff(groups)) + 1
    total = weight = 0.0
    for own_labels, own_scores in zip(np.split(labels, bounds), np.split(scores, bounds), strict=True):
        area = auc(own_labels, own_scores)
        if not math.isnan(area):
            total += area * len(own_labels)
            weight += len(own_labels)
    return total / weight if weight else NAN


def log_loss(labels: Array, scores: Array) -> float:
    """Mean negative log likelihood in nats."""
    if not len(labels):
        return NAN
    p = np.clip(scores.astype(np.float64), EPSILON, 1 - EPSILON)
    return float(-np.mean(np.where(labels > 0, np.log(p), np.log1p(-p))))


def normalised_entropy(labels: Array, scores: Array) -> float:
    """Log loss over that of always predicting the positive rate (He et al. 2014); 1 knows only the rate."""
    if not len(labels):
        return NAN
    rate = float(np.mean(labels))
    base = log_loss(labels, np.full(len(labels), rate))
    return log_loss(labels, scores) / base if 0 < rate < 1 else NAN


def calibration(labels: Array, scores: Array) -> float:
    """Sum of predictions over sum of positives: above 1 promises too much."""
    positives = float(labels.sum())
    return float(scores.astype(np.float64).sum()) / positives if positives else NAN


def calibration_error(labels: Array, scores: Array, bins: int = 20) -> float:
    """Expected calibration error over equally filled bins."""
    if not len(labels):
        return NAN
    order = np.argsort(scores, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(float(scores[part].mean()) - float(labels[part].mean())) * len(part) for part in parts]
    return sum(gaps) / len(labels)


def report(labels: Array, scores: Array, users: Array, slices: dict[str, Array]) -> dict[str, float]:
    """Every metric over all samples, and AUC with its number of rows for each named (n,) bool slice; of scenes more."""
    out = {
        "rows": float(len(labels)),
        "auc": auc(labels, scores),
        "gauc": gauc(labels, scores, users),
        "log_loss": log_loss(labels, scores),
        "normalised_entropy": normalised_entropy(labels, scores),
        "calibration": calibration(labels, scores),
        "calibration_error": calibration_error(labels, scores),
    }
    for name, chosen in slices.items():
        out[f"{name}_auc"] = auc(labels[chosen], scores[chosen])
        out[f"{name}_rows"] = float(chosen.sum())
        if name.startswith(SCENE):  # a scene is a product of its own
            own, promised = labels[chosen], scores[chosen]
            out[f"{name}_gauc"] = gauc(own, promised, users[chosen])
            out[f"{name}_log_loss"] = log_loss(own, promised)
            out[f"{name}_calibration"] = calibration(own, promised)
    return out


def number_report(wanted: Array, scores: Array, slices: dict[str, Array]) -> dict[str, float]:
    """Of a task that is a number: errors over all samples in the number's own unit, and over each named slice.

    r2: the share of the variance that is explained; 0 knows only the mean.
    """
    errors = scores.astype(np.float64) - wanted.astype(np.float64)
    spread = float(np.var(wanted.astype(np.float64))) if len(wanted) else 0.0
    out = {
        "rows": float(len(wanted)),
        "rmse": _rmse(errors),
        "mae": float(np.abs(errors).mean()) if len(errors) else NAN,
    }
    out["r2"] = 1 - float(np.mean(errors**2)) / spread if spread else NAN
    for name, chosen in slices.items():
        out[f"{name}_rmse"] = _rmse(errors[chosen])
        out[f"{name}_rows"] = float(chosen.sum())
    return out


def _rmse(errors: Array) -> float:
    return float(np.sqrt(np.mean(errors**2))) if len(errors) else NAN


def by_task(tasks: Tasks, targets: Array, scores: Array) -> dict[str, float]:
    """Each task's AUC, of a number its RMSE, over the rows on which it has a target. targets, scores: (n, T).

    A task for which it is not defined (no rows, or one class) is left out.
    """
    out = {}
    for number, task in enumerate(tasks):
        there = ~np.isnan(targets[:, number])
        wanted, own = targets[there, number], scores[there, number]
        out[task.name] = _rmse(own - wanted) if task.rule.is_number else auc(wanted, own)
    return {name: value for name, value in out.items() if not math.isnan(value)}


def mean_auc(tasks: Tasks, measured: dict[str, float]) -> float:
    """What an epoch is chosen by: the mean AUC of the tasks that are a yes or no."""
    return float(np.mean([measured[task.name] for task in tasks if not task.rule.is_number and task.name in measured]))
