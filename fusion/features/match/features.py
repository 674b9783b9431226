"""The match of users and candidates as dense features: which of them a model reads, how they are fitted and computed.

Cross-fitted: a training impression reads a space that was fitted without its user, everything else, and serving, the
one that was fitted to the whole training part. So no feature of a training impression depends on its own outcome.

An item of a training impression has always been rated in training, a new one never. So that models learn how much less
a place by text alone is worth, one item of HIDDEN is read so by the training impressions of a fold, another one by
those of each (dropout of what is known of items: Volkovs et al., DropoutNet, NeurIPS 2017), and how much a place rests
on events is told: the part "support".
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec
import numpy as np

from fusion.features.impressions import Impressions, PastIndex
from fusion.features.interest_vectors import InterestVectors
from fusion.features.labels import NEGATIVE, NUMBERS, POSITIVE, UNLABELLED, LabelRule
from fusion.features.log import Array, Log
from fusion.features.match.scalars import (
    KNOWN,
    SIMILAR,
    TASTE,
    Events,
    known_scalars,
    similar_scalars,
    taste_scalars,
    taste_sums,
)
from fusion.features.match.space import LIMIT, Space, fit_space, with_interests
from fusion.features.match.years import ANGLES
from fusion.features.match.years import WIDTH as YEARS

FOLDS = 4
HIDDEN = 8
AT_ONCE = 50_000  # impressions whose partitions are looked up together: 100 MB of work space
# Of SIMILAR, those of which 0 says nothing: an item without a year must not look like one that is far from all others.
OF_YEARS = ("close", "closest", "lean")
PARTITION = ("interest_newest", "interest_mean", "interest_sum", "interest_most")

Part = Literal["text", "places", "interests", "year", "known", "support"]
PARTS: tuple[Part, ...] = get_args(Part)


class MatchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's match scalars are made of. Kept in the FeatureSpec."""

    parts: tuple[Part, ...]
    encoder: str = ""  # of the items' texts; empty: no texts
    template: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the dense features, in order."""
        names: list[str] = []
        if "text" in self.parts:
            names += [f"text_{name}" for name in SIMILAR]
        if "places" in self.parts:
            names += [f"place_{name}" for name in (*SIMILAR, *TASTE)]
        if "support" in self.parts:
            names.append("place_support")
        if "interests" in self.parts:
            names += PARTITION
        if "known" in self.parts:
            names += [f"known_{name}" for name in KNOWN]
        if "year" in self.parts:
            names += [f"year_{name}" for name in (*OF_YEARS, "known", "itself")]
        return tuple(names)


@dataclass(frozen=True, slots=True)
class Match:
    """The space of a model, and those that its training impressions read."""

    spec: MatchSpec
    space: Space
    folds: tuple[Space, ...] = ()  # without the users of each fold; none: nothing is being trained


@dataclass(frozen=True, slots=True)
class MatchItems:
    """What the scalars read of I items, whoever the user is. All float32."""

    place: Array  # (I, K)
    bias: Array  # (I,)
    support: Array  # (I,): the share of the place that is from events
    bias_by_text: Array  # (I,)
    text: Array  # (I, d): centred, length 1; zeros where an item has none
    year: Array  # (I, 7), see `fusion.features.match.years`; (I, 0) where years are not read


def divided(spec: MatchSpec, vectors: Array | None, size: int) -> tuple[Array | None, Array]:
    """The texts' and the years' part of `size` items' vectors, as `read_item_vectors` puts them side by side."""
    if "year" not in spec.parts:
        return vectors, np.zeros((size, 0), np.float32)
    if vectors is None:
        return None, np.zeros((size, YEARS), np.float32)
    return vectors[:, :-YEARS], vectors[:, -YEARS:]


def match_items(spec: MatchSpec, space: Space, number: Array, vectors: Array | None) -> MatchItems:
    """Of items by their number in the space (I,), -1: not in it, and their vectors (I, d); None: nobody has one."""
    text, year = divided(spec, vectors, len(number))
    if text is None or not text.shape[1]:
        text = np.zeros((len(number), len(space.text_mean)), np.float32)
    place, bias = space.items(number, text)
    support = space.support_of(number).astype(np.float32)
    return MatchItems(place, bias, support, space.by_text(text)[1].astype(np.float32), space.centred(text), year)


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the label rule judges, of a log's N events: the value, else the outcome."""

    value: Array  # (N,) float64, NaN where the rule says nothing of the event
    liked: Array  # (N,) bool
    disliked: Array  # (N,) bool


def feedback_of(log: Log, rule: LabelRule) -> Feedback:
    labels = rule.labels(log)
    value = rule.numbers(log) if rule.field in NUMBERS else labels.astype(np.float64)
    return Feedback(np.where(labels == UNLABELLED, np.nan, value), labels == POSITIVE, labels == NEGATIVE)


def fold_of(users: Sequence[str]) -> Array:
    """(U,) int64, by the users' ids: users who join later move nobody."""
    return np.array([zlib.crc32(user.encode()) % FOLDS for user in users], np.int64)


def hidden_items(items: Sequence[str], fold: int) -> Array:
    """(I,) bool, by the items' ids: those that a fold's training impressions read as if nobody had met them."""
    return np.array([zlib.crc32(f"{fold} {item}".encode()) % HIDDEN == 0 for item in items], bool)


def fit_match(
    spec: MatchSpec, log: Log, train: Array, rule: LabelRule, text: Array, interests: InterestVectors | None
) -> Match:
    """Fit the spaces to the events `train` ((N,) bool). text: (I, d) of the log's items, zeros where there is none.

    The items of a space are those of the training events, in the log's order, as in `FeatureSpec.items`.
    """
    trained, number = np.unique(log.item[train], return_inverse=True)
    rows, feedback, fold = np.flatnonzero(train), feedback_of(log, rule), fold_of(log.users)
    numbers = trained_numbers(log, train)

    def fitted(own: Array) -> Space:
        own_text, _ = divided(spec, text, len(text))
        assert own_text is not None
        space = fit_space(log.user[rows[own]], number[own], feedback.value[rows[own]], own_text[trained])
        if "interests" in spec.parts and interests is not None:
            items = match_items(spec, space, numbers, text)
            return _map_interests(space, log, rows[own], interests, match_events(space, items, log, feedback), items)
        return space

    folds = tuple(fitted(fold[log.user[rows]] != number_) for number_ in range(FOLDS))
    return Match(spec, fitted(np.ones(len(rows), bool)), folds)


def trained_numbers(log: Log, train: Array) -> Array:
    """(I,): the number of each of the log's items among those of the events `train`, -1 for the others."""
    trained = np.unique(log.item[train])
    number = np.full(len(log.items), -1, np.int64)
    number[trained] = np.arange(len(trained))
    return number


def match_features(
    match: Match,
    log: Log,
    rule: LabelRule,
    impressions: Impressions,
    past: PastIndex,
    *,
    number: Array,
    text: Array | None,
    interests: InterestVectors | None = None,
    partitions: int = 0,
    training: Array | None = None,
) -> Array:
    """The numbers named `match.spec.names`, not yet standardised: (n, F) float32.

    number, text: (I',) and (I', d), of the log's items and those that only impressions name; number -1: not in the
    space. training: (n,) bool, the impressions that read the space without their user.
    """
    feedback = feedback_of(log, rule)
    out = np.zeros((len(impressions), len(match.spec.names)), np.float32)
    which = np.full(len(impressions), len(match.folds), np.int64)
    if training is not None and match.folds:
        which[training] = fold_of(log.users)[impressions.user[training]]
    for one, space in enumerate((*match.folds, match.space)):
        if not (which == one).any():
            continue
        items = match_items(match.spec, space, number, text)
        events = match_events(space, items, log, feedback)
        hidden = np.zeros(len(number), bool)  # items that only impressions name are in no space
        if "support" in match.spec.parts and one < len(match.folds):
            hidden[: len(log.items)] = hidden_items(log.items, one)
        unmet = match_items(match.spec, space, np.where(hidden, -1, number), text) if hidden.any() else items
        for read, own in ((items, ~hidden), (unmet, hidden)):
            chosen = np.flatnonzero((which == one) & own[impressions.item])
            if len(chosen):
                some = impressions.take(chosen)
                sums = taste_sums(some, past, items.place, events) if "places" in match.spec.parts else None
                out[chosen] = match_scalars(match.spec, space, read, events, some, past, sums, interests, partitions)
    return out


def match_events(space: Space, items: MatchItems, log: Log, feedback: Feedback) -> Events:
    """The log's events in a space. items: by the log's numbers."""
    standard = space.standard(feedback.value)
    says = ~np.isnan(standard)
    residual = np.where(says, standard - items.bias[log.item], 0.0).astype(np.float32)
    return Events(log.item, residual, says, feedback.liked, feedback.disliked)


def match_scalars(
    spec: MatchSpec,
    space: Space,
    items: MatchItems,
    events: Events,
    impressions: Impressions,
    past: PastIndex,
    sums: Array | None,
    interests: InterestVectors | None,
    partitions: int,
) -> Array:
    """The numbers named `spec.names`: (n, F). The one place where they are made, in training and in serving.

    What is read of a user: `events`, of which the newest LOOKS_BACK of each impression are enough; `sums`, of its whole
    past (see `taste_sums`), (n, S) or (1, S) where all have the same; the partitions that it sees.
    """
    kinds = ["text"] * ("text" in spec.parts) + ["places"] * ("places" in spec.parts)
    columns = [similar_scalars(impressions, past, [items.text if k == "text" else items.place for k in kinds], events)]
    if "places" in spec.parts:
        assert sums is not None
        columns.append(taste_scalars(sums, items.place[impressions.item], items.bias[impressions.item]))
        columns.append(items.bias_by_text[impressions.item][:, None])
    if "support" in spec.parts:
        columns.append(items.support[impressions.item][:, None])
    if "interests" in spec.parts:
        columns.append(_partition_scalars(space, impressions, items.place, interests, partitions))
    if "known" in spec.parts:
        columns.append(known_scalars(impressions, past, items.text, events))
    if "year" in spec.parts:
        by_year = similar_scalars(impressions, past, [items.year[:, :ANGLES]], events)
        own = items.year[impressions.item]
        known = np.asarray(own[:, :ANGLES].any(axis=1, keepdims=True), np.float32)
        columns += [known * by_year[:, [SIMILAR.index(name) for name in OF_YEARS]], known, own[:, ANGLES:]]
    return np.hstack(columns)


def _map_interests(
    space: Space, log: Log, rows: Array, interests: InterestVectors, events: Events, items: MatchItems
) -> Space:
    """The space with partitions' texts mapped to the mean place of what was liked in them, on partitions in `rows`."""
    from scipy.sparse import coo_matrix

    owner = np.repeat(np.arange(len(interests.starts) - 1), np.diff(interests.starts))
    if not len(owner):
        return space
    span = int(max(log.seq.max(initial=0), interests.last_seq.max())) + 2
    key = owner * span + interests.last_seq
    partition = np.searchsorted(key, log.user[rows].astype(np.int64) * span + log.seq[rows])
    inside = (partition < len(key)) & (owner[np.minimum(partition, len(key) - 1)] == log.user[rows])
    rows, partition = rows[inside], partition[inside]
    size = np.bincount(partition, events.says[rows], len(key))
    usual = np.bincount(partition, events.residual[rows], len(key)) / np.maximum(size, 1)
    rest = np.clip(events.residual[rows] - usual[partition], -LIMIT, LIMIT) * events.says[rows]
    profile = coo_matrix((rest, (partition, events.item[rows])), (len(key), len(items.place))).tocsr() @ items.place
    used = np.flatnonzero(size > 0)
    vectors = interests.vectors[used].astype(np.float32)
    return with_interests(space, vectors, profile[used] / size[used, None], size[used])


def _partition_scalars(
    space: Space, impressions: Impressions, place: Array, interests: InterestVectors | None, partitions: int
) -> Array:
    """(n, 4): where each visible partition's text says that the user's liking lies, along the candidate's place."""
    out = np.zeros((len(impressions), len(PARTITION)), np.float32)
    if interests is None or not len(interests.vectors) or len(space.interest_map) != interests.width + 1:
        return out
    mapped = np.vstack([space.interests(interests.vectors.astype(np.float32)), np.zeros((1, place.shape[1]))])
    for start in range(0, len(impressions), AT_ONCE):
        some = impressions.take(slice(start, start + AT_ONCE))
        visible = interests.visible(some, partitions)  # (n, P), -1: the row of zeros
        along = np.einsum("npk,nk->np", mapped[visible], place[some.item], optimize=True)
        size = (visible >= 0).sum(axis=1)
        total = along.sum(axis=1)
        most = np.where(visible >= 0, along, -np.inf).max(axis=1, initial=-np.inf)
        out[start : start + AT_ONCE] = np.stack(
            [along[:, 0], total / np.maximum(size, 1), total, np.where(size > 0, most, 0.0)], axis=1
        )
    return out
