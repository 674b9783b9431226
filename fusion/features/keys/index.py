"""The running key-vector state of every user of a log, to be read at any moment: what `fold` of the past would say.

Training asks for the state before each of its rows. Nothing is folded for that: touches are sorted by key, their
vectors are running sums, and a moment's vector of a key is that of the key's last touch before it, found by bisection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion.features.impressions import Impressions, PastIndex
from fusion.features.keys.state import (
    AGES,
    CELL,
    COUNT,
    PERIODS,
    WEEK,
    KeyedEvents,
    renewed_at,
    segments,
)
from fusion.features.keys.vectors import (
    ItemKeys,
    KeyBatch,
    Touches,
    batch_of,
    cell_features,
    features,
    keyed_events,
    touches_at,
)
from fusion.features.log import Array, Log
from fusion.features.prefix_sums import Running
from fusion.features.spec import FeatureSpec

AT_ONCE = 2_000_000  # touches that are looked at together when the frequent keys are chosen: 100 MB
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Moments:
    """n moments: the run of entries that each sees (-1: it sees nothing), and how many of them."""

    run: Array  # (n,) int64
    size: Array  # (n,) int64
    at: Array  # (n,) float64


class KindIndex:
    """The touches of one kind's keys. Entries are behaviours in order of run and position."""

    def __init__(self, run: Array, position: Array, keys: Array, events: KeyedEvents, window: int) -> None:
        """run, position: (E,), ascending. keys: (E, S), below 0 none."""
        self._window, self._width = window, int(keys.max(initial=0)) + 1
        entry, slot = np.nonzero(keys >= 0)
        key = keys[entry, slot]
        self._groups, group = np.unique(run[entry] * self._width + key, return_inverse=True)
        order = np.argsort(group, kind="stable")
        group = group[order]
        self.key, at = key[order], events.at[entry[order]]
        self.position = position[entry[order]].astype(np.int64)
        self._span = int(position.max(initial=0)) + 2
        self._code = group * self._span + self.position  # ascending
        self._starts = np.searchsorted(group, np.arange(len(self._groups)))
        begin = segments(group, self.position, window)
        of_touch = np.repeat(begin, np.diff(np.append(begin, len(group))))
        summed = np.cumsum(events.columns[entry[order]], axis=0)
        self.sums = (summed - np.where(of_touch[:, None] > 0, summed[of_touch - 1], 0.0)).astype(np.float32)
        self.first_at, self.last_at = at[of_touch], at
        last = np.append(group[1:] != group[:-1], True)[: len(group)]
        after = np.where(last, NEVER, np.append(self.position[1:], 0)[: len(group)])
        # the same touches in order of time
        self._touch = np.empty(len(order), np.int64)
        self._touch[order] = np.arange(len(order))
        self._by_time = run[entry] * self._span + position[entry]  # ascending
        self._after = after[self._touch]  # the position of the key's next touch
        self._pairs: Array = np.empty(0, np.int64)
        self._chosen: Array = np.zeros((0, 0), np.int64)

    def last_before(self, group: Array, size: Array) -> Array:
        """The last touch of each group before a position, -1 where there is none that is still known. Broadcasts."""
        touch = np.searchsorted(self._code, group * self._span + size) - 1
        known = (group >= 0) & (touch >= 0)
        touch = np.where(known, touch, 0)
        if not len(self._code):
            return np.full(touch.shape, -1)
        known &= touch >= self._starts[np.where(group >= 0, group, 0)]
        known &= size - self.position[touch] <= self._window
        return np.where(known, touch, -1)

    def matched(self, moments: Moments, keys: Array) -> Array:
        """(n, S) touches, of the candidates' keys (n, S)."""
        asked = moments.run[:, None] * self._width + keys
        if not len(self._groups):
            return np.full(keys.shape, -1)
        place = np.minimum(np.searchsorted(self._groups, asked), len(self._groups) - 1)
        found = (self._groups[place] == asked) & (keys >= 0) & (keys < self._width) & (moments.run[:, None] >= 0)
        return self.last_before(np.where(found, place, -1), moments.size[:, None])

    def recent(self, moments: Moments, most: int, back: int) -> Array:
        """(n, most) touches: the keys met last, of those met among the newest `back` behaviours; -1 is none."""
        base = np.where(moments.run >= 0, moments.run, 0) * self._span
        stop = np.searchsorted(self._by_time, base + moments.size)
        first = np.searchsorted(self._by_time, base + np.maximum(moments.size - min(back, self._window), 0))
        stop = np.where(moments.run >= 0, stop, first)
        width = int((stop - first).max(initial=0))
        newest = stop[:, None] - 1 - np.arange(width)
        there = newest >= first[:, None]
        newest = np.where(there, newest, 0)
        out = np.full((len(stop), most), -1, np.int64)
        if width:
            there &= self._after[newest] >= moments.size[:, None]  # later touches of the key are not seen
            rank = np.cumsum(there, axis=1) - 1
            row, column = np.nonzero(there & (rank < most))
            out[row, rank[row, column]] = self._touch[newest[row, column]]
        return out

    def choose(self, moments: Moments, most: int) -> None:
        """Choose the most frequent keys for these moments, as of when they were last renewed."""
        seen = moments.run >= 0
        sizes = renewed_at(moments.size[seen])
        pairs = np.unique(moments.run[seen] * self._span + sizes)
        run, size = pairs // self._span, pairs % self._span
        first = np.searchsorted(self._by_time, run * self._span)
        count = np.searchsorted(self._by_time, pairs) - first
        chosen = np.full((len(pairs), most), -1, np.int32)
        edges = np.cumsum(count)
        start = 0
        while start < len(pairs):
            done = edges[start - 1] if start else 0
            stop = max(int(np.searchsorted(edges, done + AT_ONCE, side="right")), start + 1)
            chosen[start:stop] = self._frequent(first[start:stop], count[start:stop], size[start:stop], most)
            start = stop
        self._pairs, self._chosen = pairs, chosen

    def _frequent(self, first: Array, count: Array, size: Array, most: int) -> Array:
        """(m, most) groups, of m runs of touches in order of time."""
        pair = np.repeat(np.arange(len(count)), count)
        touch = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[pair]
        kept = np.flatnonzero(self._after[touch] >= size[pair])
        pair, touch = pair[kept], self._touch[touch[kept]]
        known = size[pair] - self.position[touch] <= self._window
        pair, touch = pair[known], touch[known]
        times = self.sums[touch, COUNT].astype(np.int64)
        order = np.lexsort((-self.key[touch], -self.position[touch], -times, pair))
        pair, touch = pair[order], touch[order]
        rank = np.arange(len(pair)) - np.searchsorted(pair, pair)
        out = np.full((len(count), most), -1, np.int64)
        best = rank < most
        out[pair[best], rank[best]] = self._code[touch[best]] // self._span
        return out

    def frequent(self, moments: Moments) -> Array:
        """(n, most) touches of the keys that were chosen."""
        asked = np.where(moments.run >= 0, moments.run * self._span + renewed_at(moments.size), -1)
        if not len(self._pairs):
            return np.full((len(asked), self._chosen.shape[1]), -1)
        place = np.minimum(np.searchsorted(self._pairs, asked), len(self._pairs) - 1)
        found = self._pairs[place] == asked
        groups = np.where(found[:, None], self._chosen[place], -1).astype(np.int64)
        return self.last_before(groups, moments.size[:, None])

    def take(self, touch: Array) -> Touches:
        return touches_at(touch, self.sums, self.first_at, self.last_at, self.position)

    def keys_of(self, touch: Array) -> Array:
        return np.where(touch >= 0, self.key[np.where(touch >= 0, touch, 0)], -1) if len(self.key) else touch * 0 - 1


class PartitionIndex:
    """The partition of every run's past by week and bucket of categories."""

    def __init__(self, run: Array, entry_run: Array, events: KeyedEvents) -> None:
        """run: (R,) the distinct runs, ascending. entry_run: (E,) the place among them of every entry's."""
        week = np.floor(events.at / WEEK).astype(np.int64)
        low = int(week.min(initial=0))
        self._low, self._span = low, int(week.max(initial=0)) - low + 2
        code = np.maximum.accumulate(entry_run * self._span + (week - low)) if len(week) else week
        self._grid = events.buckets.shape[1]
        entry, bucket = np.nonzero(events.buckets)
        columns = events.columns[entry][:, CELL]
        self._running = Running(entry_run[entry] * self._grid + bucket, entry, columns)
        self._weeks, first = np.unique(code, return_index=True)
        self._first = np.append(first, len(code))
        place = np.searchsorted(self._weeks, code)
        sums = np.zeros((len(self._weeks) + 1, self._grid, len(CELL)))
        np.add.at(sums, (place[entry] + 1, bucket), columns)
        self._before = np.cumsum(sums, axis=0)  # over all runs; a run's own are differences
        self._start = np.searchsorted(self._weeks, np.arange(len(run)) * self._span)  # each run's first week

    def read(self, place: Array, stop: Array, at: Array) -> Array:
        """(n, PERIODS, G, 4) of moments that see a run (place below 0: none) up to the entry stop - 1."""
        seen = place >= 0
        own = np.where(seen, place, 0)
        groups = np.where(seen[:, None], own[:, None] * self._grid + np.arange(self._grid), -1).ravel()
        asked = np.repeat(stop, self._grid)
        total = self._running.sums(*self._running.before(groups, asked)).reshape(-1, self._grid, len(CELL))
        total *= seen[:, None, None]
        now = np.floor(at / WEEK).astype(np.int64) - self._low
        upto = [total]  # what had happened before each period began, the newest period first
        for age in AGES:
            week = np.clip(now - age + 1, 0, self._span - 1)
            row = np.searchsorted(self._weeks, own * self._span + week)
            before = self._before[row] - self._before[self._start[own]] if len(self._start) else total
            later = self._first[np.minimum(row, len(self._first) - 1)] >= stop
            upto.append(np.where(later[:, None, None], total, before * seen[:, None, None]))
        upto.append(np.zeros_like(total))
        return np.stack([upto[n] - upto[n + 1] for n in range(PERIODS)], axis=1)


class KeyIndex:
    """What models read of the keys of n impressions: made for all of them, read a batch at a time."""

    def __init__(
        self, spec: FeatureSpec, log: Log, past: PastIndex, items: ItemKeys, impressions: Impressions,
        *, columns: Array, action: Array, scene: Array | None,
    ) -> None:  # fmt: skip
        """columns, action, scene: (N,) of the log's events, see `keyed_events`."""
        self._spec, self._items, self._past = spec, items, past
        self._keys = keys = items.layout.spec
        rows = past.rows
        events = keyed_events(
            items, log.item[rows] + 1, columns[rows], action[rows], None if scene is None else scene[rows],
            log.at[rows],
        )  # fmt: skip
        runs, entry_run = np.unique(past.run, return_inverse=True)
        first = np.searchsorted(past.run, runs)
        position = np.arange(len(rows)) - first[entry_run] if len(rows) else np.empty(0, np.int64)
        self._runs = entry_run
        self._item_row = items.rows[0][1:, 0] - items.layout.offsets[0]
        self.kinds = [KindIndex(entry_run, position, own, events, keys.window) for own in events.keys]
        moments = self._moments(impressions)
        for kind in self.kinds:
            kind.choose(moments, keys.frequent)
        self._partition = PartitionIndex(runs, entry_run, events)

    def _moments(self, picked: Impressions) -> Moments:
        size = picked.stop - picked.first
        seen = size > 0
        run = np.where(seen, self._runs[np.where(seen, picked.first, 0)], -1) if len(self._runs) else size * 0 - 1
        return Moments(run, size, picked.at)

    def read(self, picked: Impressions, scene: Array | None, *, together: bool = False) -> KeyBatch:
        """See `KeySource.read`."""
        looks = picked.take(slice(0, 1)) if together else picked
        own, every = self._moments(looks), self._moments(picked)
        scale, keys = self._spec.scale, self._keys
        size, at = own.size[:, None], own.at[:, None]
        rows, vectors, matched_rows, matched = [], [], [], []
        for number, kind in enumerate(self.kinds):
            touch = np.hstack([kind.recent(own, keys.recent, keys.back), kind.frequent(own)])
            rows.append(self._items.row_of(number, kind.keys_of(touch), self._item_row))
            vectors.append(features(kind.take(touch), size, at, scale))
            offered, offered_rows = self._items.offered(number, picked.item + 1, scene)
            if offered.shape[1]:
                found = kind.take(kind.matched(every, offered))
                matched_rows.append(offered_rows)
                matched.append(features(found, every.size[:, None], every.at[:, None], scale))
        cells = self._partition.read(own.run, looks.stop, looks.at)
        return batch_of(
            np.hstack(rows), np.concatenate(vectors, axis=1), np.hstack(matched_rows), np.concatenate(matched, axis=1),
            cell_features(cells, scale), self._items.buckets[picked.item + 1].astype(np.float32),
        )  # fmt: skip
