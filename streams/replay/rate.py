"""How fast a log is played: as fast as it goes, so many times faster than it happened, or so many events a second.

Pure: the clock is handed in, and the caller sleeps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from interest.errors import InputError
from streams.files.numbers import Floats

_RATE = re.compile(r"(?P<number>\d+(\.\d+)?|\.\d+)(?P<unit>x|/s)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most one of the two; neither: as fast as it goes."""

    speed: float | None = None  # seconds of event time in a second
    per_s: float | None = None  # events in a second


def parse_rate(text: str) -> Rate:
    """`max`, `10x` or `5000/s`. Raises InputError for anything else."""
    if text.strip().lower() == "max":
        return Rate()
    match = _RATE.fullmatch(text.strip())
    number = float(match["number"]) if match else 0.0
    if not match or number <= 0:
        raise InputError(
            f"--rate {text}: give max, a multiple of event time such as 10x (ten event-seconds a second; 1x is live), "
            "or events a second such as 5000/s"
        )
    return Rate(speed=number) if match["unit"].lower() == "x" else Rate(per_s=number)


class Pacer:
    """Says how many of the next rows are due. The first row asked about is due at once."""

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        self.rate, self._clock = rate, clock
        self._start: float | None = None
        self._first = 0.0  # event time of the first row asked about
        self._given = 0

    def due(self, at: Floats, start: int) -> tuple[int, float]:
        """How many of the rows from `start` on are due now; if none is, the seconds until the next one.

        `at` (n,) are event times in s, ascending; the rows said to be due are taken for played.
        """
        left, now = len(at) - start, self._clock()
        if self._start is None:
            self._start, self._first = now, float(at[start])
        passed, wait = now - self._start, 0.0
        if self.rate.per_s is not None:
            # compared as counts, so that rounding cannot ask for a wait of nothing
            count = min(left, math.floor(passed * self.rate.per_s) + 1 - self._given)
            wait = self._given / self.rate.per_s - passed
        elif self.rate.speed is not None:
            count = int(np.searchsorted(at[start:], self._first + passed * self.rate.speed, side="right"))
            wait = (float(at[start]) - self._first) / self.rate.speed - passed
        else:
            count = left
        self._given += max(count, 0)
        return (count, 0.0) if count > 0 else (0, max(wait, 1e-3))
