"""Running sums: how much of each group had happened strictly before a moment. Knows nothing of users or items."""

from __future__ import annotations

import numpy as np

from fusion.features.log import Array


class Running:
    """Prefix sums of K columns over E entries, per group, in order.

    `order` is any whole number that grows with time (a position in the log, the rank of a time stamp). Groups are >= 0.
    """

    def __init__(self, group: Array, order: Array, columns: Array) -> None:
        self._span = int(order.max(initial=0)) + 2
        key = group.astype(np.int64) * self._span + order
        if np.any(np.diff(key) < 0):
            by_key = np.argsort(key, kind="stable")
            key, columns = key[by_key], columns[by_key]
        self._key = key  # (E,)
        self._sums = np.zeros((len(key) + 1, columns.shape[1]))  # (E + 1, K) float64
        np.cumsum(columns, axis=0, out=self._sums[1:])

    def before(self, group: Array, order: Array) -> tuple[Array, Array]:
        """First and past-the-last entry of `group` with an order strictly below `order`: two (n,) positions.

        A group below 0 has none.
        """
        base = group.astype(np.int64) * self._span
        stop = np.searchsorted(self._key, base + np.minimum(order, self._span - 1))
        return np.searchsorted(self._key, base), stop

    def sums(self, first: Array, stop: Array, last: int | None = None) -> Array:
        """Sums of the columns over entries first..stop - 1, or over only the `last` of them: (n, K)."""
        if last is not None:
            first = np.maximum(first, stop - last)
        return np.asarray(self._sums[stop] - self._sums[first])
