"""A user's key-vector state, carried forward: the fold of new behaviours is merged into it, the past is not read again.

What is read at a moment is what `KeyIndex` reads from the whole log: the same keys, by vectors as of now.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fusion.features.counts import event_columns
from fusion.features.events import Events
from fusion.features.impressions import Impressions, PastIndex
from fusion.features.keys.spec import KeySpec
from fusion.features.keys.state import (
    WEEK,
    KeyMap,
    KeyState,
    fold,
    merge,
    most_frequent,
    partition,
    renewed_at,
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
from fusion.features.spec import FeatureSpec, ItemTable


@dataclass(frozen=True, slots=True)
class KeySide:
    """A user's: the state, and the most frequent keys of every kind as of when they were last renewed."""

    state: KeyState
    frequent: tuple[Array, ...]

    @property
    def nbytes(self) -> int:
        return self.state.nbytes + sum(int(keys.nbytes) for keys in self.frequent)


def empty_keys(keys: KeySpec) -> KeySide:
    """Of a user without a past."""
    nothing, none = np.empty(0, np.int64), np.empty(0)
    kind = KeyMap(nothing, np.zeros((0, 5 + keys.actions)), none, none, nothing, nothing)
    state = KeyState(0, (kind,) * len(keys.kinds), 0, nothing, np.zeros((0, 4)))
    return KeySide(state, (nothing,) * len(keys.kinds))


def read_on(side: KeySide, spec: FeatureSpec, table: ItemTable, places: Array, log: Log) -> KeySide:
    """The side with one user's next behaviours, on items (I,) of which `places` are the names and `table` has I + 1."""
    keys = spec.keys
    assert keys is not None
    labels = spec.label.labels(log)
    rows = Events(spec, log, labels, PastIndex(np.arange(log.size), np.zeros(log.size, np.int64)))
    items = ItemKeys(spec, table, np.append(-1, places))
    new = keyed_events(
        items, log.item + 1, event_columns(log, labels, spec.scale), rows.action[:-1],
        None if rows.scene is None else rows.scene[:-1], log.at,
    )  # fmt: skip
    state, frequent = side.state, side.frequent
    whole = state.size + log.size
    upto = int(renewed_at(np.array([whole]))[0]) - state.size  # of the new behaviours those that the choice knows
    if upto > 0:
        state = merge(state, fold(new.take(slice(0, upto)), keys.window), keys.window, keys.grid)
        frequent = tuple(most_frequent(kind, keys.frequent) for kind in state.kinds)
        new = new.take(slice(upto, None))
    return KeySide(merge(state, fold(new, keys.window), keys.window, keys.grid), frequent)


class LiveKeys:
    """A user's state as of one moment, for any candidates (a `KeySource`)."""

    def __init__(self, spec: FeatureSpec, side: KeySide, table: ItemTable, places: Array, item_row: Array) -> None:
        """table, places: of all items that impressions may name, by their numbers. item_row: (P,) by place."""
        assert spec.keys is not None
        self._spec, self._keys, self._side, self._item_row = spec, spec.keys, side, item_row
        self._items = ItemKeys(spec, table, np.append(-1, places))

    @cached_property
    def _attended(self) -> list[tuple[Array, Touches]]:
        """By kind the keys that attention reads, and their vectors."""
        state, keys, out = self._side.state, self._keys, []
        for kind, frequent in zip(state.kinds, self._side.frequent, strict=True):
            near = np.flatnonzero(kind.last >= state.size - keys.back)
            newest = near[np.lexsort((kind.key[near], kind.last[near]))[::-1]][: keys.recent]
            places = np.full(keys.recent + keys.frequent, -1, np.int64)
            places[: len(newest)] = newest
            places[keys.recent : keys.recent + len(frequent)] = _find(kind, frequent)
            out.append((np.where(places >= 0, kind.key[places], -1) if len(kind.key) else places, _take(kind, places)))
        return out

    def read(self, picked: Impressions, scene: Array | None, *, together: bool = False) -> KeyBatch:
        """Of impressions `picked` (B,), all of this user at this moment. See `KeySource.read`."""
        state, scale = self._side.state, self._spec.scale
        many = 1 if together else len(picked)
        size, at = np.full((1, 1), state.size), picked.at[:1, None]
        rows, vectors, matched_rows, matched = [], [], [], []
        for number, (kind, (keys, touches)) in enumerate(zip(state.kinds, self._attended, strict=True)):
            rows.append(self._items.row_of(number, keys, self._item_row))
            vectors.append(features(touches, size[0], at[0], scale))
            offered, offered_rows = self._items.offered(number, picked.item + 1, scene)
            if offered.shape[1]:
                matched_rows.append(offered_rows)
                matched.append(features(_take(kind, _find(kind, offered)), size, at, scale))
        week = int(np.floor(at[0, 0] / WEEK))
        cells = cell_features(partition(state, week, self._keys.grid), scale)
        return batch_of(
            np.repeat(np.hstack(rows)[None], many, axis=0), np.repeat(np.concatenate(vectors)[None], many, axis=0),
            np.hstack(matched_rows), np.concatenate(matched, axis=1),
            np.repeat(cells[None], many, axis=0), self._items.buckets[picked.item + 1].astype(np.float32),
        )  # fmt: skip


def _find(kind: KeyMap, keys: Array) -> Array:
    """Places of keys (any shape) in a map, -1 for those that it does not have."""
    if not len(kind.key):
        return np.full(keys.shape, -1)
    place = np.minimum(np.searchsorted(kind.key, keys), len(kind.key) - 1)
    return np.where((kind.key[place] == keys) & (keys >= 0), place, -1)


def _take(kind: KeyMap, places: Array) -> Touches:
    return touches_at(places, kind.sums, kind.first_at, kind.last_at, kind.last)
