"""The one way from moments to what a model reads, in training and in scoring. Model-neutral.

Histories are not copied per sample: a `Samples` holds the log's columns once, and `batch` gathers the rows of its
moments. Inside a batch every distinct item appears once, so a model embeds it once however often it is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fusion.counts import DAY, ItemHistory, ItemStatistics, UserHistory, event_columns
from fusion.knowledge import Knowledge
from fusion.labels import UNLABELLED
from fusion.log import Array, Log
from fusion.moments import Moments, Past
from fusion.spec import FIRST, GAP_DAYS, UNKNOWN, FeatureSpec, item_table, profile_table
from interest.types import Item, User

LABEL_ROWS = 4  # padding, unlabelled, negative, positive
GAP_ROWS = len(GAP_DAYS) + 2  # padding, then one per gap
LONGEST = GAP_DAYS[-1] + 1
AT_ONCE = 100_000  # moments whose counts are made together: 200 MB of work space for 1M samples otherwise


@dataclass(frozen=True, slots=True)
class Batch:
    """B moments, M distinct items (row 0 is padding), Q distinct partitions; history newest first, up to L events."""

    item_row: torch.Tensor  # (M,) int32, embedding row
    item_categories: torch.Tensor  # (M, C) int32, 0 is none
    item_attributes: torch.Tensor  # (M, A) int32
    target: torch.Tensor  # (B,) int32, into the M
    history: torch.Tensor  # (B, L) int32, into the M; 0 is padding
    value: torch.Tensor  # (B, L) int32, bucket
    label: torch.Tensor  # (B, L) int32: 0 padding, 1 unlabelled, 2 negative, 3 positive
    action: torch.Tensor  # (B, L) int32
    gap: torch.Tensor  # (B, L) int32, bucket of whole days between the event and the moment
    profile: torch.Tensor  # (B, A') int32
    dense: torch.Tensor  # (B, F) float32, standardised counts
    texts: torch.Tensor  # (Q, 2 d) float32: summary and shift vectors
    partitions: torch.Tensor  # (B, P) int32, into the Q, newest first; -1 is none

    def __len__(self) -> int:
        return len(self.target)


class Samples:
    """n moments ready to be gathered into batches. Made by `encode`."""

    def __init__(
        self, spec: FeatureSpec, log: Log, moments: Moments, past: Past, items: tuple[Array, Array, Array, Array],
        profiles: Array, labels: Array, dense: Array, knowledge: Knowledge | None,
    ) -> None:  # fmt: skip
        self.moments, self.spec, self._past = moments, spec, past
        self._row, self._number, self._categories, self._attributes = items
        self._profiles, self.dense = profiles, dense  # (n, F) float32
        self._knowledge = knowledge
        actions = spec.actions.rows()
        action = np.array([actions.get(text, UNKNOWN) for text in log.actions], np.int32)
        value = np.searchsorted(np.array(spec.value_edges), log.value.astype(np.float64), side="right") + FIRST
        value = np.where(np.isnan(log.value), UNKNOWN, value)
        # one more entry at the end of each: the padding event
        self._events = {
            "item": _padded(log.item + 1),
            "value": _padded(value),
            "label": _padded(labels.astype(np.int32) - UNLABELLED + 1),
            "action": _padded(action[log.action]),
        }
        self._day = np.append(log.at // DAY, 0).astype(np.int32)
        self._rows = np.append(past.rows, log.size)
        self._gap = np.append(np.searchsorted(GAP_DAYS, np.arange(LONGEST), side="right") + 1, 0).astype(np.int32)

    def __len__(self) -> int:
        return len(self.moments)

    def standardise(self, spec: FeatureSpec) -> None:
        """Bring the counts to the spec's scale, once."""
        self.spec = spec
        self.dense -= np.array(spec.dense_mean, np.float32)
        self.dense /= np.array(spec.dense_std, np.float32)

    def batch(self, chosen: Array) -> Batch:
        """Gather the moments `chosen` (B,)."""
        own = self.moments.take(chosen)
        longest = int(np.clip((own.stop - own.first).max(initial=1), 1, self.spec.history))
        entry = own.stop[:, None] - 1 - np.arange(longest)
        row = self._rows[np.where(entry >= own.first[:, None], entry, len(self._rows) - 1)]
        history, target = self._events["item"][row], own.item + 1
        seen = np.zeros(len(self._row), bool)
        seen[0] = seen[history.ravel()] = seen[target] = True
        distinct = np.flatnonzero(seen)
        place = np.zeros(len(self._row), np.int32)
        place[distinct] = np.arange(len(distinct), dtype=np.int32)
        days = np.clip((own.at // DAY).astype(np.int32)[:, None] - self._day[row], 0, LONGEST - 1)
        texts, partitions = self._texts(own)
        return Batch(
            item_row=_tensor(self._row[distinct]),
            item_categories=_tensor(self._categories[distinct]),
            item_attributes=_tensor(self._attributes[distinct]),
            target=_tensor(place[target]),
            history=_tensor(place[history]),
            value=_tensor(self._events["value"][row]),
            label=_tensor(self._events["label"][row]),
            action=_tensor(self._events["action"][row]),
            gap=_tensor(self._gap[np.where(history > 0, days, LONGEST)]),
            profile=_tensor(self._profiles[own.user]),
            dense=_tensor(self.dense[chosen]),
            texts=_tensor(texts),
            partitions=_tensor(partitions),
        )

    def _texts(self, own: Moments) -> tuple[Array, Array]:
        if self._knowledge is None or not self.spec.partitions:
            return np.zeros((0, self.spec.text_width), np.float32), np.zeros((len(own), 0), np.int32)
        visible = self._knowledge.visible(own, self.spec.partitions)
        distinct, inverse = np.unique(np.append(visible, -1), return_inverse=True)  # distinct[0] is always -1: none
        texts = self._knowledge.vectors[distinct[1:]].astype(np.float32).reshape(-1, self.spec.text_width)
        return texts, (inverse[:-1].reshape(visible.shape) - 1).astype(np.int32)


def encode(
    spec: FeatureSpec,
    log: Log,
    moments: Moments,
    past: Past,
    *,
    items: list[str],
    catalogue: Mapping[str, Item],
    profiles: Mapping[str, User],
    knowledge: Knowledge | None = None,
    snapshot: ItemStatistics | None = None,
    standardise: bool = True,
) -> Samples:
    """Everything a model reads about `moments`.

    items: ids of the log's items followed by those that only the moments name. snapshot: the artifact's statistics, by
    place in `spec.items`; without it an item's statistics are those of the log strictly before each moment.
    """
    labels = spec.label.labels(log)
    columns = event_columns(log, labels, spec.scale)
    table = item_table(spec, items, catalogue)
    users = UserHistory(log, past, columns, table.categories[1:], spec.scale)
    history = ItemHistory(log, columns) if snapshot is None else None
    dense = np.empty((len(moments), len(spec.dense)), np.float32)
    for start in range(0, len(moments), AT_ONCE):
        part = np.arange(start, min(start + AT_ONCE, len(moments)))
        own = moments.take(part)
        if history is not None:
            statistics = history.before(own.item, own.at)
        else:
            assert snapshot is not None
            statistics = snapshot.take(table.number[own.item + 1])
        dense[part] = users.counts(own, statistics)
    rows = (table.row, table.number, table.categories, table.attributes)
    samples = Samples(
        spec, log, moments, past, rows, profile_table(spec, log.users, profiles), labels, dense, knowledge
    )
    if standardise:
        samples.standardise(spec)
    return samples


def _padded(column: Array) -> Array:
    return np.append(column, 0).astype(np.int32)


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
