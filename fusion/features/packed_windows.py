"""Impressions gathered so that a user's history is encoded once for all candidates that may share it.

Scoring is exact: candidates share a history only where they share the moment, and a history is read in both directions.
Training may put up to `pack` neighbouring moments of one user into one window: the events before the first of
them are read in both directions, those in between only backwards, so that no moment sees what came after it. Where the
windows are cut is drawn anew in every epoch, so each moment is met with 0 to `pack` - 1 events of the second kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fusion.features.collate import BatchIndices, cut
from fusion.features.counts import DAY, NAMES
from fusion.features.events import buckets
from fusion.features.keys.vectors import KeyBatch
from fusion.features.labels import POSITIVE, UNLABELLED
from fusion.features.log import Array
from fusion.features.samples import Samples, tensor
from fusion.features.spec import UNKNOWN, ItemTable

TOKENS_AT_ONCE = 8_192  # history positions per scoring batch: 8 MB for the widest activations at width 64
PAST_AT_ONCE = 500_000  # events of whole pasts per scoring batch: 30 MB of numbers, some of them twice
ALIKE = 16  # batches of training whose windows are sorted by length together
SCORES_AT_ONCE = 4096  # candidates per scoring batch
# the counts that do not depend on the candidate
USER_COUNTS = tuple(i for i, name in enumerate(NAMES) if name.startswith(("user_", "days_")))


@dataclass(frozen=True, slots=True)
class Items:
    """M distinct items; row 0 is padding."""

    row: Tensor  # (M,) int32, embedding row
    categories: Tensor  # (M, C) int32, 0 is none
    attributes: Tensor  # (M, A) int32
    vectors: Tensor | None = None  # (M, W) float32, where the spec has modalities


@dataclass(frozen=True, slots=True)
class Users:
    """G windows of T columns, oldest event first. The columns before `prefix` are seen by all; later ones by later."""

    event: Tensor  # (G, T) int32, into the M items; 0 is padding, on either side
    behavior: Tensor  # (G, T, F) int32, the rows of every behaviour field
    prefix: int
    profile: Tensor  # (G, A') int32
    context: Tensor  # (G, U) float32: the user's own counts at the window's first moment
    interest_vectors: Tensor  # (Q, W) float32
    partitions: Tensor  # (G, P) int32 into the Q, newest first, -1 is none; at the window's first moment
    past: Tensor  # (E,) int64 into the M: the whole past of the windows' first moments, window after window, if asked
    past_positive: Tensor  # (E,) float32: 1 where the label rule calls the behaviour a positive, else 0
    past_size: Tensor  # (G,) int64: how many of the E are each window's

    def __len__(self) -> int:
        return len(self.event)


@dataclass(frozen=True, slots=True)
class Candidates:
    """B offers, in up to C slots of each of G windows."""

    target: Tensor  # (G, C) int32, into the M items; 0 is an empty slot
    visible: Tensor  # (G, C) int32: the offer sees the window's columns before this one
    age: Tensor  # (G, C, T) int32: bucket of whole days between the event and the offer; 0 is padding
    slot: Tensor  # (B,) int64, g * C + c
    profile: Tensor  # (B, A') int32, or (G, A')
    dense: Tensor  # (B, F) float32
    value_bucket: Tensor  # (B,) int64: bucket of the value that the user then gave, for training; 0 where nobody knows
    scene: Tensor | None = None  # (G, C) int32: where each is offered, if the spec offers scenes; 0 is an empty slot
    keys: KeyBatch | None = None  # of a spec with keys

    def __len__(self) -> int:
        return len(self.slot)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """B moments whose users and candidates refer to the same items."""

    items: Items
    users: Users
    candidates: Candidates

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def item_row(self) -> Tensor:
        return self.items.row

    def with_item_row(self, item_row: Tensor) -> PackedBatch:
        """With other rows of the items. Whose row is that of the unknown is unknown as a key too."""
        candidates, items = self.candidates, dataclasses.replace(self.items, row=item_row)
        if candidates.keys is not None:
            unknown = item_row[candidates.target.flatten()[candidates.slot].long()] == UNKNOWN
            candidates = dataclasses.replace(candidates, keys=candidates.keys.with_unknown(unknown))
        return PackedBatch(items, self.users, candidates)


def items_of(table: ItemTable, rows: Array) -> Items:
    """The table's rows (M,) as a batch has them."""
    looks = None if table.vectors is None else tensor(table.vectors[rows])
    return Items(tensor(table.row[rows]), tensor(table.categories[rows]), tensor(table.attributes[rows]), looks)


def of_one_moment(candidates: Candidates) -> Candidates:
    """The same where every window's offers are of one moment, as in scoring: what they see is there once, (G, 1)."""
    return dataclasses.replace(candidates, visible=candidates.visible[:, :1], age=candidates.age[:, :1])


class PackedCollator:
    """How a folding model reads samples (a `Collator`); scoring has one window for every distinct moment."""

    def __init__(self, pack: int, *, whole_past: bool = False) -> None:
        """whole_past: also gather what is older than the history (`Users.past`)."""
        self._pack, self._whole_past = pack, whole_past

    def epoch(
        self, samples: Samples, rows: Array, size: int, rng: np.random.Generator, processes: int
    ) -> Iterator[list[BatchIndices]]:
        picked = samples.impressions.take(rows)
        shift = rng.integers(0, self._pack, len(samples.profiles))
        block = (picked.stop - picked.first + shift[picked.user]) // self._pack
        windows = _runs(rows, block, picked.first, picked.user)
        each = max(size // self._pack, processes)
        # like with like, for little padding, but by chance: sorted inside random runs of a few batches
        impressions, first = samples.impressions, np.array([window[0] for window in windows], np.int64)
        length = np.minimum(impressions.stop[first] - impressions.first[first], samples.spec.history)
        order, group = rng.permutation(len(windows)), ALIKE * each
        runs = [order[start : start + group] for start in range(0, len(order), group)]
        alike = [run[np.argsort(length[run], kind="stable")] for run in runs]
        batches = cut(np.concatenate(alike) if alike else order, each, processes)
        for number in [*rng.permutation(len(batches) - 1), -1]:  # what is left over comes last
            yield [_chosen([windows[w] for w in share]) for share in np.array_split(batches[number], processes)]

    def score_batches(self, samples: Samples, rows: Array) -> Iterator[BatchIndices]:
        picked = samples.impressions.take(rows)
        windows = [
            window[start : start + SCORES_AT_ONCE]
            for window in _runs(np.arange(len(rows)), picked.at, picked.seq, picked.stop, picked.first, picked.user)
            for start in range(0, len(window), SCORES_AT_ONCE)
        ]
        size = picked.stop - picked.first
        encoded, whole = np.minimum(size, samples.spec.history), size * self._whole_past
        windows.sort(key=lambda window: (len(window), encoded[window[0]]))  # like with like: little padding
        at_once = max(TOKENS_AT_ONCE // samples.spec.history, 1)
        part: list[Array] = []
        past = 0
        for window in windows:
            past += int(whole[window[0]])
            full = len(part) == at_once or (len(part) + 1) * len(window) > SCORES_AT_ONCE or past > PAST_AT_ONCE
            if part and full:
                yield _chosen(part)
                part, past = [], int(whole[window[0]])
            part.append(window)
        if part:
            yield _chosen(part)

    def collate(self, samples: Samples, chosen: BatchIndices) -> PackedBatch:
        """The windows' events up to their first moments, at most L, are the prefix; the events until their last follow.

        1. Columns: prefixes end at the same column, so the newest event before a window has one place.
        2. Slots: the k-th sample of a window is in slot k.
        3. The rows of the log behind each window's first moment, one window's after the other's.
        """
        events, picked = samples.events, samples.impressions.take(chosen.rows)
        windows = len(chosen.sizes)
        window = np.repeat(np.arange(windows), chosen.sizes)
        begin = np.cumsum(chosen.sizes) - chosen.sizes
        size = picked.stop - picked.first  # what each moment has behind it
        first, last = size[begin], size[begin + chosen.sizes - 1]
        prefix = int(np.clip(first.max(initial=0), 1, samples.spec.history))  # 1
        columns = prefix + int((last - first).max(initial=0))
        position = first[:, None] - prefix + np.arange(columns)  # (G, T) of an event in its user's past
        mask = (position >= 0) & (position < last[:, None])
        entry = np.where(mask, picked.first[begin][:, None] + position, events.nothing)
        row = events.rows[entry]
        event = events.item[row]
        slot = np.arange(len(chosen)) - begin[window]  # 2
        slots = int(chosen.sizes.max(initial=1))
        target, visible = np.zeros((windows, slots), np.int64), np.zeros((windows, slots), np.int32)
        day = np.zeros((windows, slots), np.int32)
        target[window, slot] = picked.item + 1
        visible[window, slot] = prefix + size - first[window]
        day[window, slot] = picked.at // DAY
        age = buckets(day[:, :, None] - events.day[row][:, None, :])
        begun, whole = picked.first[begin], first * self._whole_past
        past = events.rows[np.repeat(begun - (np.cumsum(whole) - whole), whole) + np.arange(whole.sum())]  # 3
        distinct, where = samples.distinct(event, target, events.item[past])
        heads = samples.impressions.take(chosen.rows[begin])
        vectors, partitions = samples.visible_interests(heads)
        table = samples.items
        known, offered, scene = samples.value_bucket, None, None
        if samples.scene is not None:
            offered, scene = samples.scene[chosen.rows], np.zeros((windows, slots), np.int32)
            scene[window, slot] = offered
        value_bucket = np.zeros(len(chosen), np.int32) if known is None else known[chosen.rows]
        return PackedBatch(
            items=items_of(table, distinct),
            users=Users(
                event=tensor(where[event]),
                behavior=tensor(events.behavior(entry)),
                prefix=prefix,
                profile=tensor(samples.profiles[heads.user]),
                context=tensor(samples.dense[chosen.rows[begin]][:, USER_COUNTS]),
                interest_vectors=tensor(vectors),
                partitions=tensor(partitions),
                past=tensor(where[events.item[past]].astype(np.int64)),
                past_positive=tensor((events.label[past] == POSITIVE - UNLABELLED + 1).astype(np.float32)),
                past_size=tensor(whole),
            ),
            candidates=Candidates(
                target=tensor(where[target]),
                visible=tensor(visible),
                age=tensor(np.where(mask[:, None, :], age, 0)),
                slot=tensor(window * slots + slot),
                profile=tensor(samples.profiles[picked.user]),
                dense=tensor(samples.dense[chosen.rows]),
                value_bucket=tensor(value_bucket.astype(np.int64)),
                scene=None if scene is None else tensor(scene),
                keys=None if samples.keys is None else samples.keys.read(picked, offered),
            ),
        )


def _runs(values: Array, *keys: Array) -> list[Array]:
    """`values` (n,) in groups of equal keys; the last key leads, and inside a group values keep their order."""
    order = np.lexsort(keys)
    new = np.zeros(len(order), bool)
    for key in keys:
        new[1:] |= np.diff(key[order]) != 0
    return np.split(values[order], np.flatnonzero(new)) if len(order) else []


def _chosen(windows: list[Array]) -> BatchIndices:
    rows = np.concatenate(windows) if windows else np.empty(0, np.int64)
    return BatchIndices(rows, np.array([len(window) for window in windows], np.int64))
