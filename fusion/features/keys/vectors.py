"""Keys as a model reads them at a moment: rows of embeddings, and each key's vector with its recency as of now.

The layout is that of the spec: for every kind so many recent and so many frequent keys of the user (`attended`), then
the keys that the candidate has itself, from its item to the scene of the offer (`matched`), and the partition of the
past by period and bucket of categories.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from fusion.features.counts import DAY, Scale
from fusion.features.impressions import Impressions
from fusion.features.keys.spec import CATEGORIES, ITEM, SCENE
from fusion.features.keys.state import COUNT, LABEL, POSITIVE, SUM, VALUES, KeyedEvents, vector_columns
from fusion.features.log import Array
from fusion.features.spec import CATEGORY_SLOTS, FIRST, UNKNOWN, FeatureSpec, ItemTable

SHRINK, SHRINK_MORE = 1.0, 5.0  # imagined touches at the average: a key that was met once says little
CELL_SHRINK = 5.0
FEATURES = 11  # of a vector, and one for every action


@dataclass(frozen=True, slots=True)
class KeyBatch:
    """B candidates. Where all are one user's at one moment, what does not depend on the candidate is there once."""

    attended_row: Tensor  # (B, S) int32 into the embedding of all kinds; 0 is none. This and the next: or (1, S)
    attended: Tensor  # (B, S, F) float32
    matched_row: Tensor  # (B, X) int32: of the candidate's own keys, met or not
    matched: Tensor  # (B, X, F)
    cells: Tensor  # (B, PERIODS, G, 3) float32: the partition; or (1, ...)
    buckets: Tensor  # (B, G) float32: which buckets the candidate is in

    def with_unknown(self, items: Tensor) -> KeyBatch:
        """The same with the items of some candidates (B,) bool unknown as keys too, as a new one is."""
        rows = self.matched_row.clone()
        rows[:, 0].masked_fill_(items, UNKNOWN)  # `item` is the first kind, of one slot
        return dataclasses.replace(self, matched_row=rows)


class KeySource(Protocol):
    def read(self, picked: Impressions, scene: Array | None, *, together: bool = False) -> KeyBatch:
        """Of the impressions `picked` (B,). together: they are one user's at one moment.

        scene: (B,) rows of the scenes in which they are offered, where the spec offers scenes.
        """


class Touches(NamedTuple):
    """Vectors of any number of keys, or of none at all where `there` is False."""

    there: Array  # (...) bool
    sums: Array  # (..., K)
    first_at: Array  # (...)
    last_at: Array
    last: Array  # (...) positions


def touches_at(places: Array, sums: Array, first_at: Array, last_at: Array, last: Array) -> Touches:
    """The vectors at places (...) of n keys, of which the sums are (n, K) and the rest (n,); below 0: none."""
    there = places >= 0
    if not len(sums):
        nothing = np.zeros(places.shape)
        return Touches(there, np.zeros((*places.shape, sums.shape[1])), nothing, nothing, nothing)
    own = np.where(there, places, 0)
    return Touches(there, sums[own], first_at[own], last_at[own], last[own])


class Layout:
    """Places of kinds in a `KeyBatch`, and rows of the embedding that all kinds share."""

    def __init__(self, spec: FeatureSpec) -> None:
        assert spec.keys is not None
        self.spec = keys = spec.keys
        sizes = {ITEM: spec.item_rows, CATEGORIES: spec.categories.size, SCENE: spec.scenes.size}
        self.sizes = [
            len(keys.attributes[name]) + FIRST if name in keys.attributes else sizes[name] for name in keys.kinds
        ]
        self.offsets = np.cumsum([0, *self.sizes])
        self.kinds = len(keys.kinds)
        self.each = keys.recent + keys.frequent  # attended keys of a kind
        scene = int(keys.scene_matched is True)  # where a task asks for it, the scene of the offer is not known
        slots = {CATEGORIES: CATEGORY_SLOTS, SCENE: scene}  # of the candidate
        self.slots = [slots[name] if name in slots else keys.slots(name) for name in keys.kinds]
        self.features = FEATURES + keys.actions

    @property
    def rows(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def matched_kind(self) -> Array:
        """(X,) the kind of every matched slot."""
        return np.repeat(np.arange(self.kinds), self.slots)

    def shared(self, kind: int, row: Array) -> Array:
        """Rows of one kind's keys as rows of the shared embedding; 0 stays none."""
        return np.where(row > 0, row + self.offsets[kind], 0).astype(np.int32)


class ItemKeys:
    """The keys of the items of a table: by kind what they are called, and their rows of the shared embedding."""

    def __init__(self, spec: FeatureSpec, table: ItemTable, name: Array) -> None:
        """name: (I + 1,) int64, what each item is called as a key of its own, below 0 for padding."""
        self.layout = Layout(spec)
        keys = self.layout.spec
        columns = keys.columns
        self.keys: list[Array] = []  # by kind (I + 1, S) int64
        self.rows: list[Array] = []
        for kind, own in enumerate(keys.kinds):
            if own == ITEM:
                key, row = name[:, None], table.row[:, None]
            elif own == CATEGORIES:
                key = row = table.categories
            elif own == SCENE:
                key = row = np.zeros((len(name), 0), np.int32)  # the offer's, not the item's: `offered`
            else:
                key = row = table.keys[:, columns[own]]
            if own != ITEM:
                key = np.where(key > UNKNOWN, key, -1)
                row = np.where(row > UNKNOWN, row, 0)
            self.keys.append(key.astype(np.int64))
            self.rows.append(self.layout.shared(kind, row))
        own_bucket = np.full((max(spec.categories.size, 1),), 1 + len(keys.buckets))
        own_bucket[list(keys.buckets)] = 1 + np.arange(len(keys.buckets))
        self.buckets = np.zeros((len(name), keys.grid), bool)
        self.buckets[:, 0] = name >= 0
        item, slot = np.nonzero(table.categories > 0)
        self.buckets[item, own_bucket[table.categories[item, slot]]] = True

    def offered(self, kind: int, item: Array, scene: Array | None) -> tuple[Array, Array]:
        """One kind's keys of candidates, and their rows of the shared embedding: (B, S) each.

        item: (B,) rows of the item table. scene: (B,) rows of the spec's, see `KeySource.read`.
        """
        if self.layout.spec.kinds[kind] != SCENE or not self.layout.slots[kind]:
            return self.keys[kind][item], self.rows[kind][item]
        assert scene is not None
        key = np.where(scene > UNKNOWN, scene, -1).astype(np.int64)[:, None]
        return key, self.layout.shared(kind, np.maximum(key, 0))

    def row_of(self, kind: int, key: Array, item_row: Array) -> Array:
        """Rows of the shared embedding for keys (any shape, below 0: none). item_row: by an item's name."""
        there = key >= 0
        if self.layout.spec.kinds[kind] == ITEM:
            row = item_row[np.where(there, key, 0)] if len(item_row) else np.zeros(key.shape, np.int32)
        else:
            row = key
        return self.layout.shared(kind, np.where(there, row, 0))


def keyed_events(
    items: ItemKeys, item: Array, columns: Array, action: Array, scene: Array | None, at: Array
) -> KeyedEvents:
    """N behaviours with their keys.

    item: (N,) rows of the item table. columns: (N, 4), see `event_columns`. action, scene: (N,) rows of the spec's.
    """
    keys = items.layout.spec
    own: list[Array] = []
    for kind, name in enumerate(keys.kinds):
        if name == SCENE:
            row = np.zeros(len(item), np.int64) if scene is None else scene.astype(np.int64)
            own.append(np.where(row > UNKNOWN, row, -1)[:, None])
        else:
            own.append(np.sort(items.keys[kind][item], axis=1))
    summed = vector_columns(columns, action.astype(np.int64) - FIRST, keys.actions)
    return KeyedEvents(tuple(own), summed, at, items.buckets[item])


def features(touches: Touches, size: Array, at: Array, scale: Scale) -> Array:
    """(..., F) float32: the vectors as of now. size, at: behaviours so far and event time, to be broadcast."""
    sums, there = touches.sums, touches.there
    count, label = sums[..., COUNT], sums[..., LABEL]
    base = np.log(scale.prior) - np.log1p(-scale.prior)

    def rate(shrink: float) -> Array:
        mean = (sums[..., POSITIVE] + shrink * scale.prior) / (label + shrink)
        return np.asarray(np.log(mean) - np.log1p(-mean) - base) / 2

    columns = [
        there,
        np.log1p(count) / 2,
        np.log1p(sums[..., POSITIVE]) / 2,
        np.sqrt(count / np.maximum(size, 1)),
        rate(SHRINK),
        rate(SHRINK_MORE),
        sums[..., SUM] / (sums[..., VALUES] + SHRINK),
        sums[..., SUM] / (sums[..., VALUES] + SHRINK_MORE),
        np.log1p(np.maximum(at - touches.last_at, 0) // DAY) / 4,
        np.log1p(np.maximum(at - touches.first_at, 0) // DAY) / 4,
        np.log1p(np.maximum(size - 1 - touches.last, 0)) / 4,
        *(np.log1p(sums[..., VALUES + 1 + n]) / 2 for n in range(sums.shape[-1] - VALUES - 1)),
    ]
    return np.stack([np.where(there, column, 0.0) for column in columns], axis=-1).astype(np.float32)


def cell_features(cells: Array, scale: Scale) -> Array:
    """(..., 3) float32, from a partition's sums (..., 4): how much, how much liked, how it was valued."""
    label = cells[..., LABEL]
    lift = (cells[..., POSITIVE] - scale.prior * label) / (label + CELL_SHRINK)
    value = cells[..., SUM] / (label + CELL_SHRINK)
    return np.stack([np.log1p(cells[..., COUNT]) / 4, 2 * lift, value], axis=-1).astype(np.float32)


def batch_of(
    attended_row: Array, attended: Array, matched_row: Array, matched: Array, cells: Array, buckets: Array
) -> KeyBatch:
    """The arrays as tensors."""
    arrays = (attended_row.astype(np.int32), attended, matched_row.astype(np.int32), matched, cells, buckets)
    return KeyBatch(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))
