"""What BAHE reads of a moment: N sequences of the user's past behaviours, as rows of distinct vectors.

A sequence is a choice among the user's behaviours: all of them (recent), those that the label rule calls positive or
negative (liked, disliked), those of one scene or of one action; of each the newest M, wherever in the past they lie.

Scoring is exact: one window for every past. Training may put up to `pack` neighbouring moments of one user into one
window: of each sequence the newest M behaviours before the first of them, then those until the last. A moment sees the
columns that were there before it and no others, up to `pack` - 1 more than M; it pools the newest M of them, as in
scoring. Where the windows are cut is drawn anew in every epoch (fusion/features/packed_windows.py), so each moment is
met with other company.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fusion.features.collate import BatchIndices, RowCollator
from fusion.features.events import LABEL_ROWS, Events
from fusion.features.impressions import Impressions
from fusion.features.labels import NEGATIVE, POSITIVE, UNLABELLED
from fusion.features.log import Array
from fusion.features.packed_windows import PackedCollator
from fusion.features.samples import Samples, tensor
from fusion.features.spec import FIRST, PADDING, UNKNOWN, FeatureSpec
from interest.errors import InputError

VECTORS_AT_ONCE = 4_096  # behaviours per scoring batch: 80 MB for the widest activations of a small LLM
SCORES_AT_ONCE = 1_024  # candidates per scoring batch
# Least windows in a batch of training, so that it is more than one or two users' samples: 210 random rows, 20 a batch,
# are learnt by heart in 35 epochs where these are of five windows (AUC 0.997), and not where they are of one (0.89)
WINDOWS = 8
KINDS = {"liked": POSITIVE, "disliked": NEGATIVE}


@dataclass(frozen=True, slots=True)
class BaheBatch:
    """B samples with S pasts in G windows, O distinct items, V distinct vectors, N sequences.

    Where the spec has modalities, what is distinct is a text of one item: two items may read alike and look different.
    """

    item_row: Tensor  # (V,) int32: 0 padding, 1 unknown, 2 a vector of the bank
    vectors: Tensor  # (V, d) float16
    history: Tensor  # (N, G, T) int32 into the V, oldest first, padding (0) on the right
    feedback: Tensor  # (N, G, T) int32: value row * LABEL_ROWS + label row of each behaviour, 0 where none is
    visible: Tensor  # (N, S) int64: a past is so many columns of its window, from the left
    window: Tensor  # (S,) int64 into the G
    offered: Tensor  # (O,) int32 into the V
    target: Tensor  # (B,) int64 into the O
    past: Tensor  # (B,) int64 into the S
    profile: Tensor  # (B, A') int32
    dense: Tensor  # (B, F) float32
    interest_vectors: Tensor  # (Q, W) float32
    partitions: Tensor  # (S, P) int32 into the Q, newest first, -1 is none
    item_vectors: Tensor | None = None  # (V, W) float32: the modalities of the item behind each, if the spec has any
    scene: Tensor | None = None  # (B,) int32: where the item is offered, if the spec offers scenes

    def __len__(self) -> int:
        return len(self.target)

    def with_item_row(self, item_row: Tensor) -> BaheBatch:
        return dataclasses.replace(self, item_row=item_row)


class BaheCollator(RowCollator):
    """How BAHE reads samples (a `Collator`): up to `pack` moments share a window in training, none in scoring."""

    def __init__(self, sequences: Sequence[str], history: int, pack: int = 1) -> None:
        self._sequences, self._history, self._pack = tuple(sequences), history, pack

    def epoch(
        self, samples: Samples, /, rows: Array, size: int, rng: np.random.Generator, processes: int
    ) -> Iterator[list[BatchIndices]]:
        pack = min(self._pack, size // max(WINDOWS, processes))
        if pack > 1:
            return PackedCollator(pack).epoch(samples, rows, size, rng, processes)
        return super().epoch(samples, rows, size, rng, processes)

    def score_batches(self, samples: Samples, /, rows: Array) -> Iterator[BatchIndices]:
        picked = samples.impressions.take(rows)
        order = np.lexsort((picked.at, picked.seq, picked.stop, picked.first, picked.user))
        new = np.zeros(len(rows), bool)
        for key in (picked.user, picked.first, picked.stop, picked.seq, picked.at):
            new[1:] |= np.diff(key[order]) != 0
        windows = [
            run[start : start + SCORES_AT_ONCE]
            for run in (np.split(order, np.flatnonzero(new)) if len(rows) else [])
            for start in range(0, len(run), SCORES_AT_ONCE)
        ]
        # windows with like histories go together: little padding
        windows.sort(key=lambda window: int(picked.stop[window[0]] - picked.first[window[0]]))
        at_once = max(VECTORS_AT_ONCE // (len(self._sequences) * self._history), 1)
        part: list[Array] = []
        for window in windows:
            if part and (len(part) == at_once or sum(map(len, part)) + len(window) > SCORES_AT_ONCE):
                yield _chosen(part)
                part = []
            part.append(window)
        if part:
            yield _chosen(part)

    def collate(self, samples: Samples, chosen: BatchIndices) -> BaheBatch:  # type: ignore[override]
        """1. Samples of a window at the same moment have the same past.

        2. A window's columns are those of its last past; an earlier past is the beginning of them.
        """
        bank_index = samples.bank_index
        if bank_index is None:
            raise ValueError("these samples know no texts; hand them to fusion.bank.index.with_bank first")
        picked = samples.impressions.take(chosen.rows)
        window = np.repeat(np.arange(len(chosen.sizes)), chosen.sizes)  # (B,)
        new = np.ones(len(chosen), bool)  # 1
        new[1:] = np.any([np.diff(key) != 0 for key in (window, picked.stop, picked.seq, picked.at)], axis=0)
        pasts, window = picked.take(np.flatnonzero(new)), window[new]  # (S,)
        read = [self._read(samples, name, pasts, window) for name in self._sequences]
        longest = max(1, *(row.shape[1] for row, _ in read))
        row = np.stack([_wider(rows, longest) for rows, _ in read])  # (N, G, T)
        visible = np.stack([lengths for _, lengths in read])  # (N, S)
        looks, events = samples.items.vectors, samples.events
        many = 0 if looks is None else len(looks)

        def code(text: Array, place: Array) -> Array:
            """Text and item as one number; the text alone where items have no modalities."""
            return text if looks is None else (text + 1) * many + place

        event = code(bank_index.event[row], events.item[row])
        last = np.append(np.flatnonzero(np.diff(window)), len(window) - 1)[: len(chosen.sizes)]  # 2
        mask = np.arange(longest) < visible[:, last, None]
        item = code(bank_index.item[picked.item + 1], picked.item + 1)
        offered, target = np.unique(item, return_inverse=True)
        distinct = np.unique(np.concatenate([event[mask], offered]))
        distinct = distinct[distinct >= 0]
        vectors = np.zeros((len(distinct) + FIRST, bank_index.vectors.shape[1]), np.float16)
        text = distinct if looks is None else distinct // many - 1
        vectors[FIRST:][text >= 0] = bank_index.vectors[text[text >= 0]]
        kind = np.full(len(vectors), FIRST, np.int32)
        kind[:FIRST] = PADDING, UNKNOWN
        kind[FIRST:][text < 0] = UNKNOWN
        item_vectors = None if looks is None else tensor(looks[np.concatenate([[0, 0], distinct % many])])

        def place(rows: Array) -> Array:
            return np.where(rows >= 0, np.searchsorted(distinct, rows) + FIRST, UNKNOWN).astype(np.int32)

        interest_vectors, partitions = samples.visible_interests(pasts)
        return BaheBatch(
            item_row=tensor(kind),
            vectors=tensor(vectors),
            history=tensor(np.where(mask, place(event), PADDING)),
            feedback=tensor(np.where(mask, events.value[row] * LABEL_ROWS + events.label[row], 0).astype(np.int32)),
            visible=tensor(visible),
            window=tensor(window),
            offered=tensor(place(offered)),
            target=tensor(target.ravel()),
            past=tensor(np.cumsum(new) - 1),
            profile=tensor(samples.profiles[picked.user]),
            dense=tensor(samples.dense[chosen.rows]),
            interest_vectors=tensor(interest_vectors),
            partitions=tensor(partitions),
            item_vectors=item_vectors,
            scene=None if samples.scene is None else tensor(samples.scene[chosen.rows]),
        )

    def _read(self, samples: Samples, name: str, pasts: Impressions, window: Array) -> tuple[Array, Array]:
        """One sequence of S pasts in the windows `window` (S,), ascending.

        Rows of the log (G, T), which begin with the newest M behaviours before a window's first past; and how many of
        them each past has: (S,).
        """
        bank_index, events = samples.bank_index, samples.events
        assert bank_index is not None
        if name not in bank_index.sequences:
            members = np.flatnonzero(chosen_by(samples.spec, events, name))
            bank_index.sequences[name] = np.append(members, events.nothing)  # ends with what answers for padding
        entries = bank_index.sequences[name]
        stop = np.searchsorted(entries[:-1], pasts.stop)
        head = np.flatnonzero(np.diff(window, prepend=-1))  # (G,) each window's first past
        start = np.maximum(np.searchsorted(entries[:-1], pasts.first[head]), stop[head] - self._history)
        visible = stop - start[window]
        index = start[:, None] + np.arange(int(visible.max(initial=0)))
        return events.rows[entries[np.minimum(index, len(entries) - 1)]], visible


def chosen_by(spec: FeatureSpec, events: Events, name: str) -> Array:
    """(E,) bool: which entries of the past belong to a sequence."""
    rows = events.rows[:-1]
    kind, _, which = name.partition(":")
    if name == "recent":
        return np.ones(len(rows), bool)
    if name in KINDS:
        return np.asarray(events.label[rows] == KINDS[name] - UNLABELLED + 1)
    if kind == "action":
        return np.asarray(events.action[rows] == spec.actions.rows().get(which, -1))
    if events.scene is None:
        return np.zeros(len(rows), bool)
    return np.asarray(events.scene[rows] == spec.scenes.rows().get(which, -1))


def named_sequences(spec: FeatureSpec, asked: Sequence[str]) -> tuple[str, ...]:
    """The sequences that a list of names means: `scenes` and `actions` are one for each.

    Raises InputError for a name that means nothing for this log.
    """
    out: dict[str, None] = {}
    for name in asked:
        kind, _, which = name.partition(":")
        every = {"scenes": ("scene", spec.scenes.texts), "actions": ("action", spec.actions.texts)}
        if name in every:
            single, texts = every[name]
            out |= dict.fromkeys(f"{single}:{text}" for text in texts)
        elif name == "recent" or name in KINDS or (kind in ("scene", "action") and which in every[kind + "s"][1]):
            out[name] = None
        else:
            raise InputError(
                f"--sequences: {name!r} is not a sequence of this log; there are recent, liked, disliked, "
                "scene:NAME, action:NAME, and scenes or actions for one of each"
            )
    if not out:
        raise InputError(
            "--sequences: none is left; the log tells no scenes apart" if asked else "--sequences is empty"
        )
    return tuple(out)


def _wider(rows: Array, width: int) -> Array:
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=-1)


def _chosen(windows: list[Array]) -> BatchIndices:
    return BatchIndices(np.concatenate(windows), np.array([len(window) for window in windows], np.int64))
