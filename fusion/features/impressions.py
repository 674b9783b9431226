"""The point-in-time join: what was known when an item was offered to a user. Nothing of the future passes this file.

A moment (user, seq s, time t, item) sees the user's behaviours with seq < s and at <= t, and the partitions with
last_seq < s and closed_at <= t. Almost always these are the events before it in the log, so a moment is one number:
the row it ends at. Only where late events came in is the past not a run of rows; then the visible rows are copied
behind the log as a row run of their own (`PastIndex`), and the same arithmetic holds for every moment. Offers that
nobody took are moments, and in nobody's past.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion.features.log import Array, Log


@dataclass(frozen=True, slots=True, kw_only=True)
class Impressions:
    """n impressions. Row i of every (n,) array is the same moment."""

    user: Array  # (n,) int32, into Log.users
    item: Array  # (n,) int32, into Log.items, or beyond them: an item the log does not know
    at: Array  # (n,) float64
    seq: Array  # (n,) int64: the event's own, or the one after the user's newest by then, for a request
    first: Array  # (n,) int64 into PastIndex.rows: the past is rows first..stop - 1, oldest first
    stop: Array  # (n,) int64

    def __len__(self) -> int:
        return len(self.user)

    def take(self, chosen: Array | slice) -> Impressions:
        return Impressions(**{name: getattr(self, name)[chosen] for name in self.__slots__})


@dataclass(frozen=True, slots=True)
class PastIndex:
    """Rows of the log in an order where every moment's past is one run. (N + copies,) each."""

    rows: Array  # int64, into the log
    run: Array  # int64: which run the entry belongs to (users first, then the runs of moments among late events)


def impressions_of(log: Log, chosen: Array) -> tuple[Impressions, PastIndex]:
    """One moment for every chosen row of the log, just before the event happened."""
    chosen = np.asarray(chosen, np.int64)
    user = log.user[chosen]
    rank = log.rank()
    first, stop = rank[log.starts[user]], rank[chosen]
    return _runs(log, user, log.item[chosen], log.at[chosen], log.seq[chosen], first, stop)


def impressions_at(log: Log, user: Array, item: Array, at: float) -> tuple[Impressions, PastIndex]:
    """Impressions after everything in the log that happened up to `at`."""
    happened = log.at <= at
    following = np.zeros(len(log.users), np.int64)  # by user: the number after the newest of those events
    np.maximum.at(following, log.user[happened], log.seq[happened] + 1)
    rank = log.rank()
    first, stop = rank[log.starts[user]], rank[log.starts[user + 1]]
    return _runs(log, user, item, np.full(len(user), float(at)), following[user], first, stop)


def _runs(
    log: Log, user: Array, item: Array, at: Array, seq: Array, first: Array, stop: Array
) -> tuple[Impressions, PastIndex]:
    """first, stop: places among the log's behaviours, which alone are pasts."""
    first, stop, own = first.astype(np.int64), stop.astype(np.int64), log.behaved
    newest = np.append(_known_since(log.at[own], log.user[own]), -np.inf)  # the last answers for users without a past
    late = np.flatnonzero(newest[np.where(stop > first, stop - 1, len(own))] > at)
    rows, run, size = [own], [log.user[own].astype(np.int64)], len(own)
    for number, i in enumerate(late):
        visible = own[first[i] : stop[i]]
        visible = visible[log.at[visible] <= at[i]]
        first[i], stop[i] = size, size + len(visible)
        rows.append(visible)
        run.append(np.full(len(visible), len(log.users) + number))
        size += len(visible)
    impressions = Impressions(user=user, item=item, at=at, seq=seq, first=first, stop=stop)
    return impressions, PastIndex(np.concatenate(rows), np.concatenate(run))


def known_since(log: Log) -> Array:
    """(N,) float64: the time by which each event had arrived, the running maximum of its user's event times."""
    return _known_since(log.at, log.user)


def _known_since(at: Array, user: Array) -> Array:
    """user: (N,), each user's events together."""
    same = np.diff(user) == 0
    if not np.any(np.diff(at)[same] < 0):
        return at
    return np.concatenate([np.maximum.accumulate(times) for times in np.split(at, np.flatnonzero(~same) + 1)])
