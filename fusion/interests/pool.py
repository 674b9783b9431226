"""The user's vector before anything is trained: a recency-weighted pool of the partitions' vectors. Pure numpy.

With a vector v_p a partition (the mean of its summary's and its shift's text vectors; the summary's alone where there
is no shift) and a half-life h counted in partitions,

    u_k = normalise( sum over p in (k - W, k] of 2^(-(k - p) / h) v_p ),    W = ceil(20 h).

A partition without a vector adds nothing but still counts as time. u_k never depends on a later partition. Weights
below 2^-20 are left out, so a new partition costs at most W vectors however long the history; the sum runs in one
fixed order, so adding partitions one by one gives the same bytes as all at once.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

HALF_LIFE = 4.0  # partitions; at 50 behaviours each, half the weight lies on about the newest 200 behaviours

Vectors = NDArray[np.float32]
Indexes = NDArray[np.int64]


def partition_vector(summary: Vectors, shift: Vectors | None) -> Vectors:
    """One partition's vector (d,): the mean of its summary's and its shift's."""
    return summary.astype(np.float32) if shift is None else ((summary + shift) / np.float32(2)).astype(np.float32)


def window(half_life: float) -> int:
    """W: how many partitions back a weight is still at least 2^-20."""
    if not (math.isfinite(half_life) and half_life > 0):
        raise ValueError(f"half_life must be a positive number of partitions, not {half_life}")
    return math.ceil(20 * half_life)


def pool(vectors: Vectors, indexes: Indexes, at: int, half_life: float = HALF_LIFE) -> Vectors:
    """The user's vector (d,) as of partition `at`, of length 1 (zero where nothing is in the window).

    `vectors` (n, d), one a partition that has one; `indexes` (n,), their partitions, ascending. Rows after `at` and
    before the window are not read.
    """
    first = np.searchsorted(indexes, at - window(half_life), side="right")
    last = np.searchsorted(indexes, at, side="right")
    weights = 2.0 ** (-(at - indexes[first:last]) / half_life)
    return _normalise((vectors[first:last].astype(np.float64) * weights[:, None]).sum(axis=0))


def _normalise(vector: NDArray[np.float64]) -> Vectors:
    length = float(np.linalg.norm(vector))
    return (vector / length if length else vector).astype(np.float32)
