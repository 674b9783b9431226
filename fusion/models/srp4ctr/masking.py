"""Windows of behaviours with masked elements: what FG-BERT is pre-trained on (SRP4CTR, section 3.1).

Two sets of elements are drawn independently in every window. An element of the item set shows a mask in place of its
item, all its item features with it; one of the behaviour set shows a mask in place of all its behaviour features. An
element may be in both: then only its position is known. Only events of the training part are ever drawn from; events
of the validation part are masked to measure, with the training events before them in view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fusion.features.collate import cut
from fusion.features.events import Events
from fusion.features.impressions import PastIndex
from fusion.features.log import Array, Log
from fusion.features.packed_windows import Items, items_of
from fusion.features.samples import tensor
from fusion.features.spec import FIRST, FeatureSpec, ItemTable

LEAST = 2  # events in a window: one to hide and one to see


@dataclass(frozen=True, slots=True)
class Masked:
    """G windows of T columns. `items` holds every item of the windows and every class of the softmax."""

    items: Items  # M
    event: Tensor  # (G, T) int32, into the M; 0 is padding, on either side
    behavior: Tensor  # (G, T, F) int32
    item_masks: Tensor  # (G, T) bool
    behavior_masks: Tensor  # (G, T) bool
    classes: Tensor  # (K,) int64, into the M: all known items, or those that were sampled
    log_share: Tensor | None  # (K,) float32: how probable each was to be sampled; None: these are all

    def __len__(self) -> int:
        return len(self.event)


class Sequences:
    """The events `rows` of a log, each user's in order, to be cut into windows of up to `columns`."""

    def __init__(self, spec: FeatureSpec, log: Log, rows: Array, table: ItemTable, columns: int) -> None:
        """table: of the log's items. rows: (n,) in the log's order."""
        self._run = log.user[rows].astype(np.int64)
        self._events = Events(spec, log, spec.label.labels(log), PastIndex(rows, self._run))
        self._table, self.columns = table, columns
        new = np.append(True, np.diff(self._run) != 0)[: len(rows)]
        self._position = np.arange(len(rows)) - np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))
        self.row = np.asarray(table.row[self._events.item[rows]])  # (n,) embedding row of every event's item
        # where each class of the item softmax stands in the table
        self.place = np.zeros(spec.item_rows, np.int64)
        self.place[table.row] = np.arange(len(table.row))
        self.counts = np.bincount(self.row, minlength=spec.item_rows)[FIRST:]  # (K,) events per known item

    def cut(self, shift: Array) -> list[Array]:
        """Windows as entries (n,), every user's events cut at multiples of T, moved by `shift` (U,)."""
        block = (self._position + shift[self._run]) // self.columns
        new = (np.diff(block) != 0) | (np.diff(self._run) != 0)
        windows = np.split(np.arange(len(self._run)), np.flatnonzero(new) + 1)
        return [window for window in windows if len(window) >= LEAST]

    def gather(
        self, windows: list[Array], masks: tuple[Array, Array], offsets: Array, sampled: Array | None, log_share: Array
    ) -> Masked:
        """Put G windows side by side, each `offsets` (G,) columns from the left.

        masks: (n,) bool per entry, of all entries: items, behaviours. sampled: numbers of the sampled known items, or
        None for all. log_share: (known items,) float, the sampling distribution.
        """
        entry = np.full((len(windows), self.columns), self._events.nothing)
        for number, (window, offset) in enumerate(zip(windows, offsets, strict=True)):
            entry[number, offset : offset + len(window)] = window
        place = self._events.item[self._events.rows[entry]]
        known = self.place[FIRST:]
        classes = known if sampled is None else known[sampled]
        table = self._table
        if sampled is None:
            distinct, where = np.arange(len(table.row)), np.arange(len(table.row))
        else:
            distinct = np.unique(np.concatenate([[0], place.ravel(), classes]))
            where = np.zeros(len(table.row), np.int64)
            where[distinct] = np.arange(len(distinct))
        items, behaviors = (np.append(mask, False)[entry] for mask in masks)
        return Masked(
            items=items_of(table, distinct),
            event=tensor(where[place].astype(np.int32)),
            behavior=tensor(self._events.behavior(entry)),
            item_masks=tensor(items),
            behavior_masks=tensor(behaviors),
            classes=tensor(where[classes]),
            log_share=None if sampled is None else tensor(log_share[sampled].astype(np.float32)),
        )


def draw(size: int, shares: tuple[float, float], rng: np.random.Generator) -> tuple[Array, Array]:
    """Two independent sets among `size` elements: which items to hide, which behaviours."""
    return rng.random(size) < shares[0], rng.random(size) < shares[1]


def batches(windows: list[Array], size: int, rng: np.random.Generator, least: int = 1) -> list[list[Array]]:
    """The windows in random order, `size` at a time; what is left over, if fewer than `least`, with those before."""
    order = rng.permutation(len(windows))
    return [[windows[w] for w in batch] for batch in cut(order, size, least)]
