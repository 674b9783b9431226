"""Of several columns that may hold the event time, the one that tells it best."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from streams.files.numbers import Floats
from streams.files.readers import TableFile
from streams.files.times import as_times

SAMPLE = 1_000  # rows looked at: the first, so that a log that grows keeps its choice
_UNITS = (("seconds", 60.0), ("minutes", 3_600.0), ("hours", 86_400.0))  # finer than the next


class TimeColumn(msgspec.Struct, frozen=True):
    """The column taken, and why the others were not."""

    column: str
    others: dict[str, str] = {}  # column -> what it tells


def choose_time_column(file: TableFile, candidates: Sequence[str]) -> TimeColumn:
    """The candidate whose sample is times in most rows, then to the finest unit, then the first named."""
    if len(candidates) == 1:
        return TimeColumn(candidates[0])
    sampled: dict[str, Floats] = {name: np.empty(0) for name in candidates}
    for chunk in file.chunks(list(candidates), size=SAMPLE):
        sampled = {name: as_times(chunk.columns[name], name, {}) for name in candidates}
        break
    share = {name: float(np.mean(~np.isnan(times))) if len(times) else 0.0 for name, times in sampled.items()}
    fineness = {name: _fineness(times[~np.isnan(times)]) for name, times in sampled.items()}
    best = max(candidates, key=lambda name: (round(share[name], 1), -fineness[name]))
    told = {
        name: f"tells {_unit(fineness[name])}" if share[name] else "is not a time"
        for name in candidates
        if name != best
    }
    return TimeColumn(best, told)


def _fineness(times: Floats) -> int:
    """0 where the times tell seconds, up to 3 where they tell days only."""
    for place, (_, size) in enumerate(_UNITS):
        if len(times) and np.any(times % size):
            return place
    return len(_UNITS)


def _unit(fineness: int) -> str:
    return _UNITS[fineness][0] if fineness < len(_UNITS) else "days only"
