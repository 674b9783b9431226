"""Slices of the items by which metrics are told apart."""

from __future__ import annotations

import numpy as np

from fusion.features.log import Array


def tail_items(counts: Array, share: float = 0.2) -> tuple[Array, Array]:
    """The long tail by training frequency, of items that occur there: two (I,) bools.

    strict: the least frequent `share` of the items; bulk: the least frequent items that hold `share` of the events.
    """
    occurring = np.flatnonzero(counts > 0)
    occurring = occurring[np.argsort(counts[occurring], kind="stable")]
    strict, bulk = np.zeros(len(counts), bool), np.zeros(len(counts), bool)
    strict[occurring[: int(share * len(occurring))]] = True
    bulk[occurring[np.cumsum(counts[occurring]) <= share * counts.sum()]] = True
    return strict, bulk
