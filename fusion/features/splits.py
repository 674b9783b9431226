"""Who trains, who selects, who is tested: 80/10/10 in time over all events, or in order inside every user."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fusion.features.log import Array, Log

TRAIN, VALID, TEST = 0, 1, 2
Split = Literal["global", "user"]


def split(log: Log, how: Split) -> Array:
    """(N,) int8 of TRAIN, VALID, TEST.

    global: the first 80 % of all events by event time train, the next 10 % select, the last 10 % test; equal times
    keep the store's order (user, seq). user: the same shares of every user's own events, in order of arrival.
    """
    size = log.size
    if how == "global":
        part = np.empty(size, np.int8)
        order = np.argsort(log.at, kind="stable")
        part[order] = np.searchsorted([int(0.8 * size), int(0.9 * size)], np.arange(size), side="right")
        return part
    per_user = np.diff(log.starts)[log.user]
    position = log.position()
    later = (position >= (per_user * 0.8).astype(np.int64)).astype(np.int8)
    return later + (position >= (per_user * 0.9).astype(np.int64)).astype(np.int8)


def eligible(log: Log, earlier: int) -> Array:
    """(N,) bool: events with at least `earlier` events of the same user before them; the others are history only."""
    return np.asarray(log.position() >= earlier)
