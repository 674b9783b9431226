"""Arrays that rows are put behind: with slack, so that a row more does not copy those that are there."""

from __future__ import annotations

import numpy as np

from fusion.features.log import Array


class Growing:
    """One such array. `rows` is a view of its rows, (n, ...): written to in place, and void after `append`."""

    __slots__ = ("_buffer", "rows")

    def __init__(self, rows: Array) -> None:
        self._buffer = self.rows = rows

    @property
    def nbytes(self) -> int:
        """With the slack."""
        return int(self._buffer.nbytes)

    def append(self, rows: Array) -> Array:
        """Put rows of the same kind behind, in amortised constant time for each; the new `rows`."""
        held, size = len(self.rows), len(self.rows) + len(rows)
        if size > len(self._buffer):
            self._buffer = np.empty((size + size // 4, *self.rows.shape[1:]), self.rows.dtype)
            self._buffer[:held] = self.rows
        self._buffer[held:size] = rows
        self.rows = self._buffer[:size]
        return self.rows
