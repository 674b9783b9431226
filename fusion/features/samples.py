"""The one way from impressions to what a model reads, in training and in scoring. Model-neutral.

Histories are not copied per sample: a `Samples` holds the log's columns once, and `batch` gathers the rows of its
impressions. Inside a batch every distinct item appears once, so a model embeds it once however often it is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fusion.features.counts import DAY, ItemHistory, ItemStatistics, UserHistory, event_columns
from fusion.features.events import Events, buckets
from fusion.features.impressions import Impressions, PastIndex
from fusion.features.interest_vectors import InterestVectors
from fusion.features.log import Array, Log
from fusion.features.spec import FeatureSpec, ItemTable, item_table, profile_table
from interest.types import Item, User

if TYPE_CHECKING:
    from fusion.bank.index import BankIndex

AT_ONCE = 100_000  # impressions whose counts are made in one go: 200 MB of work space for 1M samples otherwise


@dataclass(frozen=True, slots=True)
class Batch:
    """B impressions, M distinct items (row 0 is padding), Q distinct partitions; up to L events, newest first."""

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
    interest_vectors: torch.Tensor  # (Q, 2 d) float32: summary and shift vectors
    partitions: torch.Tensor  # (B, P) int32, into the Q, newest first; -1 is none

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True, slots=True)
class Named:
    """What the numbers stand for, for models that read texts."""

    log: Log
    items: list[str]  # ids; item i of the log and of the impressions, and what the catalogue says of it
    catalogue: Mapping[str, Item]


class Samples:
    """n impressions ready to be gathered into batches. Made by `encode`."""

    def __init__(
        self,
        spec: FeatureSpec,
        impressions: Impressions,
        events: Events,
        items: ItemTable,
        profiles: Array,
        dense: Array,
        interest_vectors: InterestVectors | None,
        named: Named,
    ) -> None:
        self.impressions, self.spec, self.events, self.items = impressions, spec, events, items
        self.profiles, self.dense = profiles, dense  # (U, A') int32; (n, F) float32
        self._interest_vectors = interest_vectors
        self.named = named
        self.given: Array | None = None  # (n,) int32, value bucket of each sample's own event; set where it is known
        self.bank_index: BankIndex | None = None  # set by fusion.bank.index.attach, for models that read texts

    def __len__(self) -> int:
        return len(self.impressions)

    @property
    def content(self) -> tuple[Array, ...]:
        """What models are shown beside the log's events: if any of it changes, these are other samples."""
        table, read = self.items, self._interest_vectors
        interests = () if read is None else (read.starts, read.last_seq, read.closed_at, read.vectors)
        return (self.dense, self.profiles, table.row, table.categories, table.attributes, *interests)

    def standardise(self, spec: FeatureSpec) -> None:
        """Bring the counts to the spec's scale, once."""
        self.spec = spec
        self.dense -= np.array(spec.dense_mean, np.float32)
        self.dense /= np.array(spec.dense_std, np.float32)

    def batch(self, chosen: Array) -> Batch:
        """Gather the impressions `chosen` (B,)."""
        own = self.impressions.take(chosen)
        longest = int(np.clip((own.stop - own.first).max(initial=1), 1, self.spec.history))
        events = self.events
        entry = own.stop[:, None] - 1 - np.arange(longest)
        row = events.rows[np.where(entry >= own.first[:, None], entry, events.nothing)]
        history, target = events.item[row], own.item + 1
        distinct, place = self.distinct(history, target)
        gap = buckets((own.at // DAY).astype(np.int32)[:, None] - events.day[row])
        vectors, partitions = self.visible_interests(own)
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
            interest_vectors=tensor(vectors),
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

    def visible_interests(self, own: Impressions) -> tuple[Array, Array]:
        """Vectors of the partitions that n moments see (Q, W), and which each sees: (n, P) into the Q, or -1."""
        if self._interest_vectors is None or not self.spec.partitions:
            return np.zeros((0, self.spec.text_width), np.float32), np.zeros((len(own), 0), np.int32)
        visible = self._interest_vectors.visible(own, self.spec.partitions)
        distinct, inverse = np.unique(np.append(visible, -1), return_inverse=True)  # distinct[0] is always -1: none
        vectors = self._interest_vectors.vectors[distinct[1:]].astype(np.float32).reshape(-1, self.spec.text_width)
        return vectors, (inverse[:-1].reshape(visible.shape) - 1).astype(np.int32)


def encode(
    spec: FeatureSpec,
    log: Log,
    impressions: Impressions,
    past: PastIndex,
    *,
    items: list[str],
    catalogue: Mapping[str, Item],
    profiles: Mapping[str, User],
    interest_vectors: InterestVectors | None = None,
    snapshot: ItemStatistics | None = None,
    standardise: bool = True,
) -> Samples:
    """Everything a model reads about `impressions`.

    items: ids of the log's items followed by those that only the impressions name. snapshot: the artifact's statistics,
    by place in `spec.items`; without it an item's statistics are those of the log strictly before each moment.
    """
    labels = spec.label.labels(log)
    columns = event_columns(log, labels, spec.scale)
    table = item_table(spec, items, catalogue)
    users = UserHistory(log, past, columns, table.categories[1:], spec.scale)
    history = ItemHistory(log, columns) if snapshot is None else None
    dense = np.empty((len(impressions), len(spec.dense)), np.float32)
    for start in range(0, len(impressions), AT_ONCE):
        part = np.arange(start, min(start + AT_ONCE, len(impressions)))
        own = impressions.take(part)
        if history is not None:
            statistics = history.before(own.item, own.at)
        else:
            assert snapshot is not None
            statistics = snapshot.take(table.number[own.item + 1])
        dense[part] = users.counts(own, statistics)
    samples = Samples(
        spec, impressions, Events(spec, log, labels, past), table, profile_table(spec, log.users, profiles), dense,
        interest_vectors, Named(log, items, catalogue),
    )  # fmt: skip
    if standardise:
        samples.standardise(spec)
    return samples


def tensor(array: Array) -> torch.Tensor:
    """The array as a tensor, sharing its memory where it can."""
    return torch.from_numpy(np.ascontiguousarray(array))
