"""Match scalars: what a user made of items that are like the candidate, as a few numbers an impression.

A user's side is the vectors and residuals of the newest LOOKS_BACK behaviours and two running sums over all of them, so
it does not depend on the candidate; a candidate costs one small product with it. A residual is how far an event's
feedback is above the item's usual. Only the impression's own past is read, as `Impressions` bounds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fusion.features.impressions import Impressions, PastIndex
from fusion.features.log import Array

LOOKS_BACK = 200  # single behaviours
SHARPNESS = 8.0  # a behaviour's weight is exp(8 s) of its similarity s, and exp(16 s) in the second
FLOOR = 0.3  # similarity whose weight is that of one imagined behaviour with the user's usual residual
SHRINK = 10.0  # as many imagined behaviours in the whole past
TOGETHER = 128  # impressions of a user whose windows share a block
BLOCK = 4096  # candidates of one moment in a block

SIMILAR = ("close", "closest", "liked", "disliked", "lean", "alike")
KNOWN = ("most", "mean")
TASTE = ("taste", "taste_sum", "usual", "bias", "bias_by_text")


@dataclass(frozen=True, slots=True)
class Events:
    """What a log's N events say, by the log's row."""

    item: Array  # (N,) int, into the vectors
    residual: Array  # (N,) float32; 0 where the event says nothing
    says: Array  # (N,) bool
    liked: Array  # (N,) bool
    disliked: Array  # (N,) bool

    def take(self, rows: Array | slice) -> Events:
        return Events(*(getattr(self, name)[rows] for name in self.__slots__))


def similar_scalars(impressions: Impressions, past: PastIndex, vectors: Sequence[Array], events: Events) -> Array:
    """(n, 6 V) float32: SIMILAR by each of V kinds of item vectors (I, d), of the newest LOOKS_BACK behaviours.

    close, closest: the similarity-weighted mean residual, above the window's plain one; liked, disliked: the greatest
    similarity to an item with that outcome, 0 where there is none; lean: their difference; alike: mean similarity.
    """
    out = np.zeros((len(impressions), len(SIMILAR) * len(vectors)), np.float32)
    for chosen in _blocks(impressions):
        some = impressions.take(chosen)
        stop = int(some.stop.max())
        start = max(int(some.first[0]), int(some.stop.min()) - LOOKS_BACK)
        if stop <= start:
            continue
        entry, rows = np.arange(start, stop), past.rows[start:stop]
        one_past = int(some.stop.min()) == stop
        for number, own in enumerate(vectors):
            seen, offered = own[events.item[rows]], own[some.item]  # (T, d), (B, d)
            columns = slice(number * len(SIMILAR), (number + 1) * len(SIMILAR))
            if one_past:
                out[chosen, columns] = _similar_to_one_past(seen @ offered.T, events, rows)
            else:
                sees = (entry >= some.stop[:, None] - LOOKS_BACK) & (entry < some.stop[:, None])  # (B, T)
                out[chosen, columns] = _similar(offered @ seen.T, sees, events, rows)
    return out


def _similar_to_one_past(similarity: Array, events: Events, rows: Array) -> Array:
    """`_similar` of candidates of one moment, (T, B), which all see the same: in half of the time."""
    says = events.says[rows]
    residual = events.residual[rows][says]
    rest = residual - residual.sum() / np.float32(len(residual) + 5)
    weight = np.exp(SHARPNESS * (similarity[says] - 1))
    floor = np.float32(np.exp(SHARPNESS * (FLOOR - 1)))
    close = rest @ weight / (weight.sum(axis=0) + floor)
    weight *= weight
    closest = rest @ weight / (weight.sum(axis=0) + floor**2)
    liked, disliked = (
        similarity[which[rows]].max(axis=0) if which[rows].any() else np.zeros_like(close)
        for which in (events.liked, events.disliked)
    )
    return np.stack([close, closest, liked, disliked, liked - disliked, similarity.mean(axis=0)], axis=1)


def _similar(similarity: Array, sees: Array, events: Events, rows: Array) -> Array:
    residual, says = events.residual[rows], sees & events.says[rows]
    usual = (says @ residual) / (says.sum(axis=1) + 5)
    weight = np.exp(SHARPNESS * (similarity - 1)) * says
    squared = weight * weight
    floor = np.exp(SHARPNESS * (FLOOR - 1))
    close = (weight @ residual - usual * weight.sum(axis=1)) / (weight.sum(axis=1) + floor)
    closest = (squared @ residual - usual * squared.sum(axis=1)) / (squared.sum(axis=1) + floor**2)
    liked, disliked = (_greatest(similarity, sees & which[rows]) for which in (events.liked, events.disliked))
    alike = (similarity * sees).sum(axis=1) / np.maximum(sees.sum(axis=1), 1)
    return np.stack([close, closest, liked, disliked, liked - disliked, alike], axis=1)


def known_scalars(impressions: Impressions, past: PastIndex, vectors: Array, events: Events) -> Array:
    """(n, 2) float32: the candidate's greatest and mean similarity, by item vectors (I, d), to those of the newest
    LOOKS_BACK behaviours of which the label rule says nothing, as names of what a user paid for or searched; 0 without.
    """
    out = np.zeros((len(impressions), len(KNOWN)), np.float32)
    for chosen in _blocks(impressions):
        some = impressions.take(chosen)
        entry = np.arange(max(int(some.first[0]), int(some.stop.min()) - LOOKS_BACK), int(some.stop.max()))
        entry = entry[~events.says[past.rows[entry]]]
        if not len(entry):
            continue
        sees = (entry >= some.stop[:, None] - LOOKS_BACK) & (entry < some.stop[:, None])  # (B, T)
        similarity = vectors[some.item] @ vectors[events.item[past.rows[entry]]].T
        mean = (similarity * sees).sum(axis=1) / np.maximum(sees.sum(axis=1), 1)
        out[chosen] = np.stack([_greatest(similarity, sees), mean], axis=1)
    return out


def taste_sums(impressions: Impressions, past: PastIndex, place: Array, events: Events) -> Array:
    """(n, 2 K + 2) float64: what the whole pasts of n impressions add up to (see `taste_columns`). place: (I, K)."""
    sums = np.zeros((len(past.rows) + 1, 2 * place.shape[1] + 2))
    np.cumsum(taste_columns(place, events.take(past.rows)), axis=0, out=sums[1:])
    return np.asarray(sums[impressions.stop] - sums[impressions.first])


def taste_columns(place: Array, events: Events) -> Array:
    """(N, 2 K + 2) float64 of the log's N events: place times residual, place where it says something, residual, 1."""
    where, residual, says = place[events.item].astype(np.float64), events.residual.astype(np.float64), events.says
    return np.column_stack([where * residual[:, None], where * says[:, None], residual, says])


def taste_scalars(sums: Array, place: Array, bias: Array) -> Array:
    """(n, 4) float32: the whole past's residuals along the candidate's place, as a mean and as a sum that grows with
    the root of the number; the user's usual residual; the candidate's bias.

    sums: (n, 2 K + 2) by `taste_sums`, or one row for all. place, bias: (n, K) and (n,), the candidates'.
    """
    liking, usual, size = _liking(sums)
    along = (liking * place).sum(axis=1, keepdims=True)
    usual = np.broadcast_to(usual, along.shape)
    return np.hstack([along / (size + SHRINK), along / np.sqrt(size + SHRINK), usual, bias[:, None]]).astype(np.float32)


def taste_vector(sums: Array) -> Array:
    """(n, K) float64: whose product with a candidate's place is the first of `taste_scalars`. sums: see there."""
    liking, _, size = _liking(sums)
    return np.asarray(liking / (size + SHRINK))


def _liking(sums: Array) -> tuple[Array, Array, Array]:
    """Residuals above the user's usual one times places, summed (n, K); the usual residual; the number of events."""
    width = (sums.shape[1] - 2) // 2
    liking, all_, total, size = np.split(sums, np.cumsum([width, width, 1]), axis=1)
    usual = total / (size + 5)
    return liking - usual * all_, usual, size


def _greatest(similarity: Array, among: Array) -> Array:
    return np.where(among.any(axis=1), np.where(among, similarity, -np.inf).max(axis=1, initial=-np.inf), 0.0)


def _blocks(impressions: Impressions) -> Iterator[Array]:
    """Impressions whose windows lie close together in one run of the past."""
    order = np.lexsort((impressions.stop, impressions.first))
    first, stop = impressions.first[order], impressions.stop[order]
    start = 0
    while start < len(order):
        same = int(np.searchsorted(first, first[start], side="right"))
        near = int(np.searchsorted(stop[start:same], stop[start] + TOGETHER)) + start
        end = min(near, start + BLOCK)
        yield order[start:end]
        start = end
