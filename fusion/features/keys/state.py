"""The key-vector state of one user: a pure fold over behaviours, and a merge of two such states.

Law: fold(a + b) == merge(fold(a), fold(b)). A behaviour touches a key of every kind that it has; a key's vector holds
the sums over its touches, the time and the position of the first and of the last. Bounded: a key that was not touched
in `window` behaviours of the user is forgotten and begins anew when it is met again, so that there are never more keys
of a kind than `window` behaviours touch; this too depends on the user's behaviours alone and survives merging. Beside
the keys stands the partition of the past by week and category; weeks more than a year before the newest are one.
Positions count behaviours in order of arrival. Nothing here knows of now: recency is computed where it is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion.features.counts import DAY, LABELLED, POSITIVES, VALUE, VALUED
from fusion.features.log import Array

WEEK = 7 * DAY
AGES = (1, 2, 5, 13, 52)  # weeks: periods of 0, 1, 2-4, 5-12, 13-51 weeks ago, and before
PERIODS = len(AGES) + 1
FAR = 10.0  # standard deviations: a value beyond says no more
COUNT, POSITIVE, LABEL, SUM, VALUES = range(5)  # columns of a key's vector; one for every action behind them
CELL = (COUNT, POSITIVE, LABEL, SUM)  # those of them that a cell of the partition has


@dataclass(frozen=True, slots=True)
class KeyedEvents:
    """N behaviours of one user, or of several one after the other, in order of arrival."""

    keys: tuple[Array, ...]  # by kind (N, S) int64, ascending in each row; below 0: none
    columns: Array  # (N, K) float64
    at: Array  # (N,) float64
    buckets: Array  # (N, G) bool: of the partition

    def take(self, rows: slice) -> KeyedEvents:
        return KeyedEvents(tuple(k[rows] for k in self.keys), self.columns[rows], self.at[rows], self.buckets[rows])


@dataclass(frozen=True, slots=True)
class KeyMap:
    """The n keys of one kind, ascending, and their vectors."""

    key: Array  # (n,) int64
    sums: Array  # (n, K) float64
    first_at: Array  # (n,) float64
    last_at: Array
    first: Array  # (n,) int64, positions
    last: Array

    def take(self, rows: Array) -> KeyMap:
        return KeyMap(*(getattr(self, name)[rows] for name in self.__slots__))

    @property
    def nbytes(self) -> int:
        return sum(int(getattr(self, name).nbytes) for name in self.__slots__)


@dataclass(frozen=True, slots=True)
class KeyState:
    """What is known of a user after `size` behaviours."""

    size: int
    kinds: tuple[KeyMap, ...]
    newest: int  # the greatest week; meaningless at size 0
    cell: Array  # (m,) int64 ascending: week * G + bucket
    cells: Array  # (m, 4) float64: the columns CELL

    @property
    def nbytes(self) -> int:
        return int(self.cell.nbytes + self.cells.nbytes) + sum(kind.nbytes for kind in self.kinds)


def vector_columns(columns: Array, action: Array, actions: int) -> Array:
    """(N, 5 + A) float64: what is summed, from `event_columns` (N, 4) and the number of every action (N,), from 0."""
    value = np.clip(columns[:, VALUE], -FAR, FAR)
    plain = [np.ones(len(columns)), columns[:, POSITIVES], columns[:, LABELLED], value, columns[:, VALUED]]
    return np.stack([*plain, *((action == number).astype(np.float64) for number in range(actions))], axis=1)


def fold(events: KeyedEvents, window: int) -> KeyState:
    """The state of a user who did nothing but `events`."""
    size = len(events.at)
    week = np.maximum.accumulate(np.floor(events.at / WEEK).astype(np.int64)) if size else np.empty(0, np.int64)
    event, bucket = np.nonzero(events.buckets)
    wide = events.buckets.shape[1]
    newest = int(week[-1]) if size else 0
    cell, cells = _cells(week[event] * wide + bucket, events.columns[event][:, CELL], newest, wide)
    return KeyState(size, tuple(_fold(keys, events, window) for keys in events.keys), newest, cell, cells)


def _fold(keys: Array, events: KeyedEvents, window: int) -> KeyMap:
    event, slot = np.nonzero(keys >= 0)
    key = keys[event, slot]
    order = np.argsort(key, kind="stable")
    key, event = key[order], event[order]
    begin = segments(key, event, window)  # the first touch of every segment
    if not len(key):
        nothing = np.empty(0, np.int64)
        return KeyMap(nothing, np.zeros((0, events.columns.shape[1])), np.empty(0), np.empty(0), nothing, nothing)
    end = np.append(begin[1:], len(key)) - 1
    whole = KeyMap(
        key[begin], np.add.reduceat(events.columns[event], begin, axis=0), events.at[event[begin]],
        events.at[event[end]], event[begin].astype(np.int64), event[end].astype(np.int64),
    )  # fmt: skip
    newest = np.append(whole.key[1:] != whole.key[:-1], True)  # of a key's segments the last
    return whole.take(np.flatnonzero(newest & (len(events.at) - whole.last <= window)))


def segments(group: Array, position: Array, window: int) -> Array:
    """Where, among touches sorted by group and position, a key begins, or begins anew: their numbers."""
    if not len(group):
        return np.empty(0, np.int64)
    new = (group[1:] != group[:-1]) | (position[1:] - position[:-1] > window)
    return np.flatnonzero(np.append(True, new))


def merge(older: KeyState, newer: KeyState, window: int, grid: int) -> KeyState:
    """The state of a user who did what led to `older`, then what led to `newer`. grid: buckets of the partition."""
    if not newer.size or not older.size:
        return older if not newer.size else newer
    size = older.size + newer.size
    kinds = tuple(_merge(*pair, older.size, size, window) for pair in zip(older.kinds, newer.kinds, strict=True))
    newest = max(older.newest, newer.newest)
    late = np.maximum(newer.cell // grid, older.newest) * grid + newer.cell % grid  # weeks are those of arrival
    cell = np.concatenate([older.cell, late])
    return KeyState(size, kinds, newest, *_cells(cell, np.concatenate([older.cells, newer.cells]), newest, grid))


def _merge(a: KeyMap, b: KeyMap, before: int, size: int, window: int) -> KeyMap:
    key = np.union1d(a.key, b.key)
    one, other = np.searchsorted(key, a.key), np.searchsorted(key, b.key)
    sums = np.zeros((len(key), a.sums.shape[1]))
    first_at, last_at = np.zeros(len(key)), np.zeros(len(key))
    first, last = np.zeros(len(key), np.int64), np.full(len(key), -1)
    sums[one], first_at[one], last_at[one], first[one], last[one] = a.sums, a.first_at, a.last_at, a.first, a.last
    anew = (last[other] < 0) | (b.first + before - last[other] > window)
    sums[other] = np.where(anew[:, None], 0.0, sums[other]) + b.sums
    first_at[other] = np.where(anew, b.first_at, first_at[other])
    first[other] = np.where(anew, b.first + before, first[other])
    last_at[other], last[other] = b.last_at, b.last + before
    return KeyMap(key, sums, first_at, last_at, first, last).take(np.flatnonzero(size - last <= window))


def _cells(cell: Array, columns: Array, newest: int, grid: int) -> tuple[Array, Array]:
    """Cells of equal number as one; all weeks of the last period are one."""
    week = np.maximum(cell // grid, newest - AGES[-1])
    merged, place = np.unique(week * grid + cell % grid, return_inverse=True)
    sums = np.zeros((len(merged), len(CELL)))
    np.add.at(sums, place, columns)
    return merged, sums


def partition(state: KeyState, week: int, grid: int) -> Array:
    """(PERIODS, G, 4) float64: sums by age and bucket of categories, seen from a week that is not before the newest."""
    out = np.zeros((PERIODS, grid, len(CELL)))
    period = np.searchsorted(AGES, week - state.cell // grid, side="right")
    np.add.at(out, (period, state.cell % grid), state.cells)
    return out


def renewed_at(size: Array) -> Array:
    """The size at which the most frequent keys were last chosen: the one with only the four leading binary digits.

    So they are chosen eight times while a history doubles, and are never older than an eighth of it.
    """
    step = np.maximum(np.frexp(np.maximum(size, 1).astype(np.float64))[1] - 4, 0)
    return np.asarray((size >> step) << step)


def most_frequent(kind: KeyMap, most: int) -> Array:
    """The keys that were touched most often, of equals the newest first."""
    order = np.lexsort((kind.key, kind.last, kind.sums[:, COUNT]))[::-1]
    return kind.key[order[:most]]
