"""Lifelong counts: what a user's whole past and an item's whole past say, as a few numbers, each strictly causal.

Attention reads 50 events; these read all of them at the cost of a look-up. A user's numbers come from the log at every
moment; an item's come from the log in training (everybody's strictly earlier events) and from a snapshot in serving.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion.features.impressions import Impressions, PastIndex, known_since
from fusion.features.labels import POSITIVE, UNLABELLED
from fusion.features.log import Array, Log
from fusion.features.prefix_sums import Running

DAY = 86_400.0
AT_ONCE = 100_000  # impressions that are counted in one go: 200 MB of work space for 1M samples otherwise
USER_SHRINK = 5.0  # as many imagined events at the average; validation AUC is flat between 3 and 10
CATEGORY_SHRINK = 5.0
ITEM_SHRINK = 20.0  # the protocol's own smoothing of item means
RECENT = 100  # an item's recent events
POSITIVES, LABELLED, VALUE, VALUED = range(4)  # the columns that are summed

NAMES = (
    "user_mean",
    "user_mean_50",
    "user_mean_10",
    "user_value",
    "user_value_50",
    "user_value_10",
    "user_spread",
    "user_count",
    "category_mean",
    "category_max",
    "category_min",
    "category_value",
    "category_share",
    "category_count",
    "item_mean",
    "item_recent",
    "item_value",
    "item_count",
    "item_age",
    "days_known",
    "days_away",
    "expected",
)


@dataclass(frozen=True, slots=True)
class Scale:
    """What the counts are measured against, from the training samples."""

    prior: float  # positive rate
    value_mean: float
    value_std: float


@dataclass(frozen=True, slots=True)
class ItemStatistics:
    """Sums over everybody's events with an item up to some moment. Row i is one item, or one moment's item."""

    total: Array  # (n, 4) float64: positives, labelled, values (standardised), valued
    recent: Array  # (n, 4): the same over the last RECENT events
    first_at: Array  # (n,) float64: the item's first event

    def take(self, rows: Array) -> ItemStatistics:
        """Rows by number; a number below 0 is an item without events."""
        known = rows >= 0
        return ItemStatistics(
            np.where(known[:, None], self.total[rows], 0.0),
            np.where(known[:, None], self.recent[rows], 0.0),
            np.where(known, self.first_at[rows], np.inf),
        )


def event_columns(log: Log, labels: Array, scale: Scale) -> Array:
    """(N, 4) float64: what `Running` sums, per event."""
    valued = ~np.isnan(log.value)
    value = np.where(valued, (log.value - scale.value_mean) / scale.value_std, 0.0)
    return np.stack([labels == POSITIVE, labels != UNLABELLED, value, valued], axis=1).astype(np.float64)


class ItemHistory:
    """Every item's events in order of arrival, to be asked for any moment."""

    def __init__(self, log: Log, columns: Array) -> None:
        known = known_since(log)
        self._times = np.unique(known)
        order = np.searchsorted(self._times, known)
        self._running = Running(log.item, order, columns)
        self._first = np.full(len(log.items), np.inf)
        np.minimum.at(self._first, log.item, known)

    def before(self, item: Array, at: Array) -> ItemStatistics:
        """Statistics of (n,) items over events that had arrived strictly before (n,) times."""
        first, stop = self._running.before(item, np.searchsorted(self._times, at))
        sums = self._running.sums
        return ItemStatistics(sums(first, stop), sums(first, stop, RECENT), self._first[item])

    def snapshot(self) -> ItemStatistics:
        """Statistics of every item of the log over all of it: (I,) rows."""
        items = np.arange(len(self._first))
        return self.before(items, np.full(len(items), np.inf))


@dataclass(frozen=True, slots=True)
class PastSums:
    """What the pasts of n moments add up to: all that the counts know of a user.

    Where the moments share one past, all but the last two may have one row.
    """

    size: Array  # (n,) float64: behaviours
    whole: Array  # (n, 4): the sums of `event_columns`
    fifty: Array  # (n, 4): the same over the last 50
    ten: Array  # (n, 4)
    squares: Array  # (n,): of the standardised values
    first_at: Array  # (n,): event time of the oldest; any number where the past is empty
    newest_at: Array  # (n,): of the newest, likewise
    by_category: Array  # (n, C, 4) of `category_lifts`, for the offered item's c-th category; 0 without one
    slots: Array  # (n,): categories of the offered item


def item_columns(item: ItemStatistics, scale: Scale) -> Array:
    """(n, 6) float64: what the counts read of items, whoever is asked and when; `count_columns` names the columns."""
    mean, count = _mean(item.total, ITEM_SHRINK, scale), item.total[:, LABELLED]
    return np.stack(
        [
            mean,
            _logit(mean),
            _logit(_mean(item.recent, ITEM_SHRINK, scale)),
            _value(item.total, ITEM_SHRINK),
            np.log1p(count),
            np.where(count > 0, item.first_at, np.inf),
        ],
        axis=1,
    )


def category_lifts(sums: Array, whole: Array, scale: Scale) -> Array:
    """How users took to categories, against their own mean: (..., 4) float64 of sums (..., 4) over behaviours on each.

    Columns: lift, the same of values, labelled behaviours, their log. whole: (n, 4), over all behaviours of the n users
    of the first axis, or (1, 4) of one. Of a category without behaviours all are 0.
    """
    per_user = (-1, *[1] * (sums.ndim - 2))
    mean, value = (own.reshape(per_user) for own in _own(whole, scale))
    labelled = sums[..., LABELLED]
    out = np.empty_like(sums)
    out[..., 0] = (sums[..., POSITIVES] - mean * labelled) / (labelled + CATEGORY_SHRINK)
    out[..., 1] = (sums[..., VALUE] - value * sums[..., VALUED]) / (sums[..., VALUED] + CATEGORY_SHRINK)
    out[..., 2] = labelled
    out[..., 3] = np.log1p(labelled)
    return out


def count_columns(past: PastSums, item: Array, at: Array, scale: Scale) -> Array:
    """The numbers named NAMES: (n, F) float32. item: (n, 6) of `item_columns`, the offered ones'. at: (n,), when."""
    mean, value = _own(past.whole, scale)
    spread = (past.squares + USER_SHRINK) / (past.whole[:, VALUED] + USER_SHRINK) - value**2
    item_mean, item_logit, item_recent, item_value, item_count, item_first = item.T
    features = (
        _logit(mean),
        _logit(_mean(past.fifty, USER_SHRINK, scale)),
        _logit(_mean(past.ten, USER_SHRINK, scale)),
        value,
        _value(past.fifty, USER_SHRINK),
        _value(past.ten, USER_SHRINK),
        np.sqrt(np.maximum(spread, 0.0)),
        np.log1p(past.size),
        *_category_columns(past),
        item_logit,
        item_recent,
        item_value,
        item_count,
        _log_days(at - item_first),
        np.where(past.size > 0, _log_days(at - past.first_at), 0.0),
        np.where(past.size > 0, _log_days(at - past.newest_at), 0.0),
        mean + item_mean - scale.prior,
    )
    out = np.empty((len(at), len(features)), np.float32)
    for column, feature in enumerate(features):  # those of one past that stands for all have one row
        out[:, column] = feature
    return out


def _category_columns(past: PastSums) -> list[Array]:
    """How the user took to the offered item's categories: six (n,) arrays."""
    slots = np.maximum(past.slots, 1)
    lift = past.by_category[:, :, 0]  # slots without a category hold zeros
    means = past.by_category.sum(axis=1) / slots[:, None]
    return [
        means[:, 0],
        lift.max(axis=1, initial=0.0),
        lift.min(axis=1, initial=0.0),
        means[:, 1],
        means[:, 2] / np.maximum(past.size, 1.0),
        means[:, 3],
    ]


class UserHistory:
    """Every user's past, to be asked at any moment about the user and about the offered item's categories.

    columns: (N, 4) of `event_columns`. categories: (I, C) int, the category rows of every item of the log and of every
    item that moments offer; 0 is none.
    """

    def __init__(self, log: Log, past: PastIndex, columns: Array, categories: Array, scale: Scale) -> None:
        self._scale, self._categories = scale, categories
        self._run, self._at = np.append(past.run, -1), np.append(log.at[past.rows], 0.0)  # one entry more: "no past"
        events = columns[past.rows]
        self._sums = np.zeros((len(events) + 1, columns.shape[1]))
        np.cumsum(events, axis=0, out=self._sums[1:])
        self._squares = np.concatenate([[0.0], np.cumsum(events[:, VALUE] ** 2)])
        kinds = categories[log.item[past.rows]] if log.size else categories[:0]  # (E, C)
        entry, slot = np.nonzero(kinds)
        self._width = int(categories.max(initial=0)) + 1
        self._running = Running(past.run[entry] * self._width + kinds[entry, slot], entry, events[entry])

    def counts(self, impressions: Impressions, item: ItemStatistics) -> Array:
        """The numbers named NAMES: (n, F) float32. `item`: (n,) rows, the statistics of the offered items."""
        size = (impressions.stop - impressions.first).astype(np.float64)
        first = np.where(size > 0, impressions.first, len(self._at) - 1)
        newest = np.where(size > 0, impressions.stop - 1, len(self._at) - 1)
        sums, slots = self._by_category(impressions, size)
        whole = self._last(impressions, None)
        return count_columns(
            PastSums(
                size=size,
                whole=whole,
                fifty=self._last(impressions, 50),
                ten=self._last(impressions, 10),
                squares=self._squares[impressions.stop] - self._squares[impressions.first],
                first_at=self._at[first],
                newest_at=self._at[newest],
                by_category=category_lifts(sums, whole, self._scale),
                slots=slots,
            ),
            item_columns(item, self._scale),
            impressions.at,
            self._scale,
        )

    def _last(self, impressions: Impressions, k: int | None) -> Array:
        first = impressions.first if k is None else np.maximum(impressions.first, impressions.stop - k)
        return np.asarray(self._sums[impressions.stop] - self._sums[first])

    def _by_category(self, impressions: Impressions, size: Array) -> tuple[Array, Array]:
        """(n, C, 4) sums over the behaviours on items of the offered items' categories, and how many those are."""
        offered = self._categories[impressions.item]  # (n, C)
        mask = offered > 0
        run = self._run[np.where(size > 0, impressions.first, len(self._run) - 1)][:, None]  # -1: no past
        asked = np.where(mask & (run >= 0), run * self._width + offered, -1)
        first, stop = self._running.before(asked.ravel(), np.repeat(impressions.stop, offered.shape[1]))
        return self._running.sums(first, stop).reshape(*offered.shape, -1), mask.sum(axis=1)


def count_features(
    log: Log,
    labels: Array,
    scale: Scale,
    categories: Array,
    impressions: Impressions,
    past: PastIndex,
    *,
    snapshot: ItemStatistics | None = None,
) -> Array:
    """The numbers named NAMES of every impression, not yet standardised: (n, F) float32.

    categories: see `UserHistory`. snapshot: statistics of the same items; without it an item's are those of the log
    strictly before each impression.
    """
    columns = event_columns(log, labels, scale)
    users = UserHistory(log, past, columns, categories, scale)
    history = ItemHistory(log, columns) if snapshot is None else None
    counts = np.empty((len(impressions), len(NAMES)), np.float32)
    for start in range(0, len(impressions), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        some = impressions.take(rows)
        if history is not None:
            statistics = history.before(some.item, some.at)
        else:
            assert snapshot is not None
            statistics = snapshot.take(some.item)
        counts[rows] = users.counts(some, statistics)
    return counts


def _log_days(seconds: Array) -> Array:
    """log(1 + whole days), 0 where negative."""
    return np.log1p(np.maximum(seconds, 0.0) // DAY)


def _own(whole: Array, scale: Scale) -> tuple[Array, Array]:
    """(n,) each: the users' positive rates and mean values, from the sums over their pasts."""
    return _mean(whole, USER_SHRINK, scale), _value(whole, USER_SHRINK)


def _mean(sums: Array, shrink: float, scale: Scale) -> Array:
    return np.asarray((sums[:, POSITIVES] + shrink * scale.prior) / (sums[:, LABELLED] + shrink))


def _value(sums: Array, shrink: float) -> Array:
    return np.asarray(sums[:, VALUE] / (sums[:, VALUED] + shrink))


def _logit(p: Array) -> Array:
    return np.asarray(np.log(p) - np.log1p(-p))
