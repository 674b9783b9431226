"""How fast a benchmark's training is, validation left out and what an earlier session had done not counted."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Training rows, by the clock and by this process's processor time; its methods are `train`'s callbacks."""

    def __init__(self, rows: int, say: Callable[[object], None]) -> None:
        """rows: of the whole training part, which a continued training advances by at once."""
        self._rows, self._say = rows, say
        self.seen, self.wall_s, self.busy_s = 0, 0.0, 0.0
        self._last = (time.perf_counter(), time.process_time())

    def advance(self, count: int) -> None:
        now = (time.perf_counter(), time.process_time())
        if count < self._rows:
            self.seen += count
            self.wall_s, self.busy_s = self.wall_s + now[0] - self._last[0], self.busy_s + now[1] - self._last[1]
        self._last = now

    def report(self, epoch: object) -> None:
        self._say(epoch)
        self._last = (time.perf_counter(), time.process_time())
