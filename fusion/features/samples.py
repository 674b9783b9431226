"""The one way from impressions to what a model reads, in training and in scoring. Model-neutral.

Histories are not copied per sample: a `Samples` holds the log's columns once, and `batch` gathers the rows of its
impressions. Inside a batch every distinct item appears once, so a model embeds it once however often it is looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fusion.features.bank_index import BankIndex
from fusion.features.counts import DAY, NAMES, ItemStatistics, count_features, event_columns
from fusion.features.events import Events, buckets
from fusion.features.impressions import Impressions, PastIndex, impressions_of
from fusion.features.interest_vectors import InterestVectors
from fusion.features.keys.index import KeyIndex
from fusion.features.keys.spec import KeyChoice
from fusion.features.keys.vectors import ItemKeys, KeyBatch, KeySource
from fusion.features.log import Array, Log
from fusion.features.match.features import Match, MatchSpec, fit_match, match_features, trained_numbers
from fusion.features.modalities import Modality, fit_modalities
from fusion.features.scenes import offered_rows, scene_names
from fusion.features.spec import (
    UNKNOWN,
    FeatureSpec,
    ItemTable,
    category_rows,
    fit_categories,
    fit_scale,
    fit_spec,
    item_table,
    profile_table,
)
from fusion.features.tasks import Tasks, main_task
from interest.types import Item, User


@dataclass(frozen=True, slots=True)
class Batch:
    """B impressions, M distinct items (row 0 is padding), Q distinct partitions; up to L events, newest first."""

    item_row: torch.Tensor  # (M,) int32, embedding row
    item_categories: torch.Tensor  # (M, C) int32, 0 is none
    item_attributes: torch.Tensor  # (M, A) int32
    target: torch.Tensor  # (B,) int32, into the M
    # of one user at one moment, `history` to `profile` and `partitions` have one row
    history: torch.Tensor  # (B, L) int32, into the M; 0 is padding
    value: torch.Tensor  # (B, L) int32, bucket
    label: torch.Tensor  # (B, L) int32: 0 padding, 1 unlabelled, 2 negative, 3 positive
    action: torch.Tensor  # (B, L) int32
    gap: torch.Tensor  # (B, L) int32, bucket of whole days between the event and the moment
    profile: torch.Tensor  # (B, A') int32
    dense: torch.Tensor  # (B, F) float32, standardised: counts, and match scalars behind them
    interest_vectors: torch.Tensor  # (Q, 2 d) float32: summary and shift vectors
    partitions: torch.Tensor  # (B, P) int32, into the Q, newest first; -1 is none
    item_vectors: torch.Tensor | None = None  # (M, W) float32, where the spec has modalities (ItemTable.vectors)
    scene: torch.Tensor | None = None  # (B,) int32: where the item is offered, if the spec offers scenes
    history_scene: torch.Tensor | None = None  # (B, L) int32, the same of the events; (1, L) of one moment
    keys: KeyBatch | None = None  # of a spec with keys

    def __len__(self) -> int:
        return len(self.target)

    def with_item_row(self, item_row: torch.Tensor) -> Batch:
        """With other rows of the items. Whose row is that of the unknown is unknown as a key too."""
        keys = self.keys
        if keys is not None:
            keys = keys.with_unknown(item_row[self.target.long()] == UNKNOWN)
        return dataclasses.replace(self, item_row=item_row, keys=keys)


@dataclass(frozen=True, slots=True)
class Named:
    """What the numbers stand for, for models that read texts."""

    log: Log
    items: list[str]  # ids; item i of the log and of the impressions, and what the catalogue says of it
    catalogue: Mapping[str, Item]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """n impressions ready to be gathered into batches. Made by `make_samples` and `fit_samples`."""

    spec: FeatureSpec
    impressions: Impressions
    events: Events
    items: ItemTable
    profiles: Array  # (U, A') int32
    dense: Array  # (n, F) float32, standardised: counts, and match scalars behind them
    interest_vectors: InterestVectors | None
    named: Named
    match: Match | None = None  # what the match scalars were made with
    item_text: Array | None = None  # (I, d) float32, the text vectors of `named.items`, zeros where there is none
    scene: Array | None = None  # (n,) int32: where each impression is offered; None: the spec offers no scenes
    value_bucket: Array | None = None  # (n,) int32, of the value that each impression led to; None where nobody knows
    bank_index: BankIndex | None = None  # for models that read texts (fusion.bank.index.with_bank)
    keys: KeySource | None = None  # of a spec with keys

    def __len__(self) -> int:
        return len(self.impressions)

    @property
    def content(self) -> tuple[Array, ...]:
        """What models are shown beside the log's events: if any of it changes, these are other samples.

        Match scalars follow from the log and the texts; their own last bits depend on the machine.
        """
        table, read = self.items, self.interest_vectors
        texts = () if self.item_text is None else (self.item_text,)
        interests = () if read is None else (read.starts, read.last_seq, read.closed_at, read.vectors)
        counts = self.dense[:, : len(NAMES)]
        return (counts, self.profiles, *table.content, *interests, *texts)

    def batch(self, chosen: Array, *, together: bool = False) -> Batch:
        """Gather the impressions `chosen` (B,).

        together: they are one user's at one moment, of whom all is gathered once: history (1, L), profile, partitions.
        """
        picked = self.impressions.take(chosen)
        scene = None if self.scene is None else self.scene[chosen]
        looks = picked.take(slice(0, 1)) if together else picked
        longest = int(np.clip((looks.stop - looks.first).max(initial=1), 1, self.spec.history))
        events = self.events
        entry = looks.stop[:, None] - 1 - np.arange(longest)
        row = events.rows[np.where(entry >= looks.first[:, None], entry, events.nothing)]
        history, target = events.item[row], picked.item + 1
        distinct, position = self.distinct(history, target)
        gap = buckets((looks.at // DAY).astype(np.int32)[:, None] - events.day[row])
        vectors, partitions = self.visible_interests(looks)
        return Batch(
            item_row=tensor(self.items.row[distinct]),
            item_categories=tensor(self.items.categories[distinct]),
            item_attributes=tensor(self.items.attributes[distinct]),
            target=tensor(position[target]),
            history=tensor(position[history]),
            value=tensor(events.value[row]),
            label=tensor(events.label[row]),
            action=tensor(events.action[row]),
            gap=tensor(np.where(history > 0, gap, 0)),
            profile=tensor(self.profiles[looks.user]),
            dense=tensor(self.dense[chosen]),
            interest_vectors=tensor(vectors),
            partitions=tensor(partitions),
            item_vectors=None if self.items.vectors is None else tensor(self.items.vectors[distinct]),
            scene=None if scene is None else tensor(scene),
            history_scene=None if self.scene is None or events.scene is None else tensor(events.scene[row]),
            keys=None if self.keys is None else self.keys.read(picked, scene, together=together),
        )

    def distinct(self, *items: Array) -> tuple[Array, Array]:
        """The item-table rows named in `items`, padding first, and every table row's place among them."""
        named = np.zeros(len(self.items.row), bool)
        named[0] = True
        for rows in items:
            named[rows.ravel()] = True
        distinct = np.flatnonzero(named)
        position = np.zeros(len(named), np.int32)
        position[distinct] = np.arange(len(distinct), dtype=np.int32)
        return distinct, position

    def visible_interests(self, impressions: Impressions) -> tuple[Array, Array]:
        """Vectors of the partitions that n moments see (Q, W), and which each sees: (n, P) into the Q, or -1."""
        if self.interest_vectors is None or not self.spec.partitions:
            return np.zeros((0, self.spec.text_width), np.float32), np.zeros((len(impressions), 0), np.int32)
        visible = self.interest_vectors.visible(impressions, self.spec.partitions)
        distinct, inverse = np.unique(np.append(visible, -1), return_inverse=True)  # distinct[0] is always -1: none
        vectors = self.interest_vectors.vectors[distinct[1:]].astype(np.float32).reshape(-1, self.spec.text_width)
        return vectors, (inverse[:-1].reshape(visible.shape) - 1).astype(np.int32)


def make_samples(
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
    rows: Array | None = None,
    dense: Array | None = None,
    match: Match | None = None,
    item_text: Array | None = None,
    scenes: Sequence[str | None] | None = None,
    modality_vectors: Sequence[Array] | None = None,
) -> Samples:
    """Everything a model reads about `impressions`.

    items: ids of the log's items followed by those that only the impressions name. snapshot: the artifact's statistics,
    by index in `spec.items`; without it an item's statistics are those of the log strictly before each impression.
    rows: the rows of the log that the impressions led to, where that has happened. dense: the dense features of the
    impressions, where they have been made already; they are standardised in place, as they may be most of what there
    is. match: the space, for a spec with match scalars. item_text: (I, d), the text vectors of `items`; none: no item
    has one. scenes: in which each impression is offered; without them those of `rows`, or unknown ones.
    modality_vectors: what `read_modalities` gave of `items`.
    """
    labels = spec.label.labels(log)
    table = item_table(spec, items, catalogue, vectors=modality_vectors)
    if dense is None:
        held = None if snapshot is None else snapshot.take(table.number[1:])
        dense = count_features(log, labels, spec.scale, table.categories[1:], impressions, past, snapshot=held)
        if match is not None:
            matched = match_features(
                match, log, spec.label, impressions, past,
                number=spec.trained(table.number[1:]), text=item_text,
                interests=interest_vectors, partitions=spec.partitions,
            )  # fmt: skip
            dense = np.hstack([dense, matched])
    dense -= np.array(spec.dense_mean, np.float32)
    dense /= np.array(spec.dense_std, np.float32)
    events = Events(spec, log, labels, past)
    if scenes is None:
        scenes = [None] * len(impressions) if rows is None else scene_names(log, rows)
    keys = None
    if spec.keys is not None:
        keys = KeyIndex(
            spec, log, past, ItemKeys(spec, table, np.arange(-1, len(items))), impressions,
            columns=event_columns(log, labels, spec.scale), action=events.action, scene=events.scene,
        )  # fmt: skip
    return Samples(
        spec=spec,
        impressions=impressions,
        events=events,
        items=table,
        profiles=profile_table(spec, log.users, profiles),
        dense=dense,
        interest_vectors=interest_vectors,
        named=Named(log, items, catalogue),
        match=match,
        item_text=item_text,
        scene=offered_rows(spec, scenes) if spec.offers_scenes else None,
        value_bucket=None if rows is None else events.value[rows],
        keys=keys,
    )


def fit_samples(
    log: Log,
    rows: Array,
    train: Array,
    catalogue: Mapping[str, Item],
    profiles: Mapping[str, User],
    *,
    tasks: Tasks,
    history: int,
    min_history: int,
    value_edges: tuple[float, ...] | None = None,
    interest_vectors: InterestVectors | None = None,
    partitions: int = 0,
    match: MatchSpec | None = None,
    item_text: Array | None = None,
    modalities: Sequence[Modality] = (),
    modality_vectors: Sequence[Array] = (),
    keys: KeyChoice | None = None,
) -> Samples:
    """The samples at `rows` (n,) of the log, and with them `samples.spec`, fitted to the events `train` ((N,) bool).

    match: which match scalars they are to have. item_text: see `make_samples`. modalities: those that are to be read,
    and their vectors as `read_modalities` gives them, of the log's items. keys: which keys of the users.
    """
    rule = tasks[main_task(tasks)].rule
    labels, categories = rule.labels(log), fit_categories(log, train, catalogue)
    impressions, past = impressions_of(log, rows)
    scale, items = fit_scale(log, labels, train), category_rows(categories, log.items, catalogue)[1:]
    dense = count_features(log, labels, scale, items, impressions, past)
    fitted = None
    if match is not None:
        text = np.zeros((len(log.items), 0), np.float32) if item_text is None else item_text
        fitted = fit_match(match, log, train, rule, text, interest_vectors)
        matched = match_features(
            fitted, log, rule, impressions, past,
            number=trained_numbers(log, train), text=text,
            interests=interest_vectors, partitions=partitions, training=train[rows],
        )  # fmt: skip
        dense = np.hstack([dense, matched])
    trained = np.zeros(len(log.items), bool)
    trained[log.item[train]] = True
    spec = fit_spec(
        log, labels, train, catalogue, profiles,
        tasks=tasks, history=history, min_history=min_history, value_edges=value_edges,
        counts=dense[train[rows]], interests=interest_vectors, partitions=partitions, match=match,
        modalities=fit_modalities(modalities, modality_vectors, trained),
        keys=keys,
    )  # fmt: skip
    return make_samples(
        spec, log, impressions, past,
        items=log.items, catalogue=catalogue, profiles=profiles, interest_vectors=interest_vectors,
        rows=rows, dense=dense, match=fitted, item_text=item_text, modality_vectors=modality_vectors or None,
    )  # fmt: skip


def tensor(array: Array) -> torch.Tensor:
    """The array as a tensor, sharing its memory where it can."""
    return torch.from_numpy(np.ascontiguousarray(array))
