"""The one way from moments to what a model reads, in training and in scoring. Model-neutral.

Histories are not copied per sample: a `Samples` holds the log's columns once, and `batch` gathers the rows of its
moments. Inside a batch every distinct item appears once, so a model embeds it once however often it is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fusion.features.counts import DAY, ItemHistory, ItemStatistics, UserHistory, event_columns
from fusion.features.events import Events, buckets
from fusion.features.impressions import Moments, Past
from fusion.features.interest_vectors import Knowledge
from fusion.features.log import Array, Log
from fusion.features.spec import FeatureSpec, ItemTable, item_table, profile_table
from interest.types import Item, User

if TYPE_CHECKING:
    from fusion.bank.index import Atoms

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


@dataclass(frozen=True, slots=True)
class Named:
    """What the numbers stand for, for models that read texts."""

    log: Log
    items: list[str]  # ids; item i of the log and of the moments, and what the catalogue says of it
    catalogue: Mapping[str, Item]


class Samples:
    """n moments ready to be gathered into batches. Made by `encode`."""

    def __init__(
        self, spec: FeatureSpec, moments: Moments, events: Events, items: ItemTable, profiles: Array, dense: Array,
        knowledge: Knowledge | None, named: Named,
    ) -> None:  # fmt: skip
        self.moments, self.spec, self.events, self.items = moments, spec, events, items
        self.profiles, self.dense = profiles, dense  # (U, A') int32; (n, F) float32
        self._knowledge = knowledge
        self.named = named
        self.given: Array | None = None  # (n,) int32, value bucket of each sample's own event; set where it is known
        self.atoms: Atoms | None = None  # set by fusion.bank.index.attach, for models that read texts

    def __len__(self) -> int:
        return len(self.moments)

    @property
    def content(self) -> tuple[Array, ...]:
        """What models are shown beside the log's events: if any of it changes, these are other samples."""
        table, knowledge = self.items, self._knowledge
        texts = (
            () if knowledge is None else (knowledge.starts, knowledge.last_seq, knowledge.closed_at, knowledge.vectors)
        )
        return (self.dense, self.profiles, table.row, table.categories, table.attributes, *texts)

    def standardise(self, spec: FeatureSpec) -> None:
        """Bring the counts to the spec's scale, once."""
        self.spec = spec
        self.dense -= np.array(spec.dense_mean, np.float32)
        self.dense /= np.array(spec.dense_std, np.float32)

    def batch(self, chosen: Array) -> Batch:
        """Gather the moments `chosen` (B,)."""
        own = self.moments.take(chosen)
        longest = int(np.clip((own.stop - own.first).max(initial=1), 1, self.spec.history))
        events = self.events
        entry = own.stop[:, None] - 1 - np.arange(longest)
        row = events.rows[np.where(entry >= own.first[:, None], entry, events.nothing)]
        history, target = events.item[row], own.item + 1
        distinct, place = self.distinct(history, target)
        gap = buckets((own.at // DAY).astype(np.int32)[:, None] - events.day[row])
        texts, partitions = self.texts(own)
        return Batch(
            item_row=tensor(self.items.row[distinct]),
            item_categories=tensor(self.items.categories[distinct]),
            item_attributes=tensor(self.items.attributes[distinct]),
            target=tensor(place[target]),
            history=tensor(place[history]),
            value=tensor(events.value[row]),
            label=tensor(events.label[row]),
            action=tensor(events.action[row]),
            gap=tensor(np.where(history > 0, gap, 0)),
            profile=tensor(self.profiles[own.user]),
            dense=tensor(self.dense[chosen]),
            texts=tensor(texts),
            partitions=tensor(partitions),
        )

    def distinct(self, *items: Array) -> tuple[Array, Array]:
        """The item-table rows named in `items`, padding first, and every table row's place among them."""
        seen = np.zeros(len(self.items.row), bool)
        seen[0] = True
        for rows in items:
            seen[rows.ravel()] = True
        distinct = np.flatnonzero(seen)
        place = np.zeros(len(seen), np.int32)
        place[distinct] = np.arange(len(distinct), dtype=np.int32)
        return distinct, place

    def texts(self, own: Moments) -> tuple[Array, Array]:
        """Vectors of the partitions that n moments see (Q, W), and which each sees: (n, P) into the Q, or -1."""
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
    samples = Samples(
        spec, moments, Events(spec, log, labels, past), table, profile_table(spec, log.users, profiles), dense,
        knowledge, Named(log, items, catalogue),
    )  # fmt: skip
    if standardise:
        samples.standardise(spec)
    return samples


def tensor(array: Array) -> torch.Tensor:
    """The array as a tensor, sharing its memory where it can."""
    return torch.from_numpy(np.ascontiguousarray(array))
