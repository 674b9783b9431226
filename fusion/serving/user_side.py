"""One user's side of a score, carried forward by new behaviours: the past is read once and never again.

A side holds what a model's features need of the past: sums over all of it in float64 (counts, values, per category, the
two lifelong sums of item embeddings), and the few behaviours that attention reads one by one: the newest L, and the
newest of every sequence that the model reads. From these come the same features as from the whole log, at the cost of
the newest behaviours alone. Late behaviours are appended like any other: order is that of arrival.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fusion.features.counts import VALUE, PastSums, category_lifts, event_columns
from fusion.features.events import Events
from fusion.features.impressions import PastIndex
from fusion.features.interest_vectors import InterestVectors
from fusion.features.labels import POSITIVE
from fusion.features.log import Array, Log
from fusion.features.spec import FeatureSpec
from fusion.models.bahe.collate import chosen_by
from fusion.serving.key_side import KeySide, empty_keys
from fusion.serving.key_side import read_on as keys_read_on
from fusion.serving.known_items import ItemCounts, KnownItems
from fusion.serving.match_side import MatchSide, empty_match
from fusion.serving.match_side import read_on as match_read_on
from interest.types import User

LAST = 50  # behaviours that the counts look at one by one
NOTHING_SEEN = ItemCounts(0, 0)
SIDE_BYTES = 2_000  # of the objects themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a model wants of a past beside its sums."""

    history: int  # the newest behaviours that it reads one by one
    sequences: tuple[str, ...] = ()  # of BAHE: the newest `each` of each are read, wherever they lie
    each: int = 0
    lifelong: bool = False  # the sums of item embeddings, of positives and of others


@dataclass(frozen=True, slots=True)
class Recent:
    """The behaviours that are kept one by one, as a log of its own with R rows on few items."""

    log: Log
    places: Array  # (I,) int64: of the log's items in `KnownItems`
    events: Events
    fifty: Array  # (4,) sums over the last 50 and the last 10 of them
    ten: Array


class LastSeen(NamedTuple):
    """What a score reads from the store beside the log and the items."""

    profile: User | None
    interests: InterestVectors | None
    at: float  # the event time that was scored at
    clock: float  # the monotonic clock when the store was asked


@dataclass(slots=True)
class UserSide:
    """The state. `read_on` brings it up to date; what it was made of must not have changed meanwhile (`outdated`)."""

    user_id: str
    width: int  # d, of the item embeddings that are summed
    newest: int = -1  # sequence number of the newest behaviour it knows
    size: int = 0
    first_at: float = 0.0  # of the first and of the last to arrive
    last_at: float = 0.0
    greatest_at: float = -np.inf
    whole: Array = field(default_factory=lambda: np.zeros(4))
    squares: float = 0.0
    kinds: Array = field(default_factory=lambda: np.empty(0, np.int32))  # (K,) category rows, ascending
    by_kind: Array = field(default_factory=lambda: np.zeros((0, 4)))  # (K, 4) the sums over behaviours on such items
    items: Array = field(default_factory=lambda: np.empty(0, np.int64))  # distinct places of the past's items
    seen: ItemCounts = NOTHING_SEEN  # up to these counts, and this version of `KnownItems`, the sums hold
    version: int = 0
    embedded: Array = field(init=False)  # (2, d): sums of item embeddings, of positives and of others
    embedded_counts: Array = field(default_factory=lambda: np.zeros(2))
    recent: Recent | None = None
    match: MatchSide | None = None  # where the model reads match scalars
    keys: KeySide | None = None  # where it reads the key-vector state
    last: LastSeen | None = None  # what else was known of the user when the store was last asked
    read_at: float = 0.0  # by the monotonic clock: a look at the store that is older may know less

    def __post_init__(self) -> None:
        self.embedded = np.zeros((2, self.width))

    @property
    def nbytes(self) -> int:
        arrays = [self.kinds, self.by_kind, self.items, self.embedded]
        if self.recent is not None:
            log = self.recent.log
            # the events' columns are as many again
            arrays += [self.recent.places, *2 * (log.item, log.action, log.seq, log.at, log.value, log.scene)]
        matched = 0 if self.match is None else self.match.nbytes
        matched += 0 if self.keys is None else self.keys.nbytes
        if self.last is not None and self.last.interests is not None:
            matched += self.last.interests.vectors.nbytes
        return SIDE_BYTES + matched + sum(array.nbytes for array in arrays)

    def outdated(self, known: KnownItems) -> bool:
        """Whether an item of the past has other features now than those that were summed."""
        return bool((known.changed[self.items] > self.version).any())

    def read_on(self, spec: FeatureSpec, reading: Reading, known: KnownItems, log: Log, places: Array) -> None:
        """Add one user's next behaviours (`log`), whose items have these places: (I,), by the log's numbers."""
        labels, place = spec.label.labels(log), places[log.item]
        columns = event_columns(log, labels, spec.scale)
        if not self.size:
            self.first_at = float(log.at[0])
        self.newest, self.size, self.last_at = int(log.seq[-1]), self.size + log.size, float(log.at[-1])
        self.greatest_at = max(self.greatest_at, float(log.at.max()))
        self.whole = self.whole + columns.sum(axis=0)
        self.squares += float((columns[:, VALUE] ** 2).sum())
        self.items = np.union1d(self.items, place)
        self._add_kinds(known.categories[place], columns)
        if reading.lifelong and known.embedding is not None:
            positive = np.stack([labels == POSITIVE, labels != POSITIVE]).astype(np.float64)
            self.embedded = self.embedded + positive @ known.embedding[place]
            self.embedded_counts = self.embedded_counts + positive.sum(axis=1)
        if known.match is not None:
            self.match = match_read_on(self.match or empty_match(known.match), spec, known.match, log, places)
        if spec.keys is not None:
            self.keys = keys_read_on(self.keys or empty_keys(spec.keys), spec, known.table(places), places, log)
        self.recent = _recent(spec, reading, known, self.recent, log, place)

    def _add_kinds(self, kinds: Array, columns: Array) -> None:
        event, slot = np.nonzero(kinds)
        every = np.concatenate([self.kinds, kinds[event, slot]])
        self.kinds, place = np.unique(every, return_inverse=True)
        sums = np.zeros((len(self.kinds), columns.shape[1]))
        np.add.at(sums, place, np.concatenate([self.by_kind, columns[event]]))
        self.by_kind = sums

    def sums(self, spec: FeatureSpec, offered: Array, slots: Array) -> PastSums:
        """What the counts of n candidates are made of; one past stands for all.

        offered: (n, C), their categories, of which each has `slots` (n,).
        """
        kinds = len(self.kinds)
        lifts = np.zeros((kinds + 1, 4))  # the last row is that of categories the past does not have
        lifts[:kinds] = category_lifts(self.by_kind, self.whole[None], spec.scale)
        place = np.full(spec.categories.size, kinds)
        place[self.kinds] = np.arange(kinds)
        recent, nothing = self.recent, np.zeros(4)
        return PastSums(
            size=np.full(1, float(self.size)),
            whole=self.whole[None],
            fifty=(nothing if recent is None else recent.fifty)[None],
            ten=(nothing if recent is None else recent.ten)[None],
            squares=np.full(1, self.squares),
            first_at=np.full(1, self.first_at),
            newest_at=np.full(1, self.last_at),
            by_category=lifts[place[offered]],
            slots=slots,
        )


def empty_recent(spec: FeatureSpec, user_id: str) -> Recent:
    """Of a user without a past."""
    log = Log(
        users=[user_id],
        items=[],
        actions=[],
        starts=np.zeros(2, np.int64),
        user=np.empty(0, np.int32),
        item=np.empty(0, np.int32),
        action=np.empty(0, np.int32),
        seq=np.empty(0, np.int64),
        at=np.empty(0),
        value=np.empty(0, np.float32),
        scene=np.empty(0, np.int32),
    )
    return _as_recent(spec, log, np.empty(0, np.int64))


def _as_recent(spec: FeatureSpec, log: Log, places: Array) -> Recent:
    labels = spec.label.labels(log)
    columns = event_columns(log, labels, spec.scale)
    past = PastIndex(np.arange(log.size), np.zeros(log.size, np.int64))
    events = Events(spec, log, labels, past)
    return Recent(log, places, events, columns[-50:].sum(axis=0), columns[-10:].sum(axis=0))


def _recent(
    spec: FeatureSpec, reading: Reading, known: KnownItems, before: Recent | None, log: Log, place: Array
) -> Recent:
    """Those of `before` and of the new ones (with places (N,)) that are read one by one from now on."""
    parts = [(log, place)] if before is None else [(before.log, before.places[before.log.item]), (log, place)]
    joined, where = _join(parts, known)
    keep = np.zeros(joined.size, bool)
    keep[-max(reading.history + 1, LAST) :] = True  # one more: the oldest's `since` looks at the one before it
    if reading.sequences and joined.size > max(reading.history + 1, LAST):
        events = _as_recent(spec, joined, where).events
        for name in reading.sequences:
            keep[np.flatnonzero(chosen_by(spec, events, name))[-reading.each :]] = True
    return _as_recent(spec, *_only(joined, where, np.flatnonzero(keep)))


def _join(parts: Sequence[tuple[Log, Array]], known: KnownItems) -> tuple[Log, Array]:
    """Logs of one user after each other, and the places of the items of the whole."""
    places, item = np.unique(np.concatenate([place for _, place in parts]), return_inverse=True)
    logs = [log for log, _ in parts]
    actions = list(dict.fromkeys(text for log in logs for text in log.actions))
    scenes = list(dict.fromkeys(text for log in logs for text in log.scenes))
    action = {text: i for i, text in enumerate(actions)}
    scene = {text: i for i, text in enumerate(scenes)}
    own_action = [np.array([action[text] for text in log.actions], np.int32)[log.action] for log in logs]
    own_scene = [np.array([*(scene[text] for text in log.scenes), -1], np.int32)[log.scene] for log in logs]
    size = sum(log.size for log in logs)
    whole = Log(
        users=logs[0].users,
        items=[known.ids[p] for p in places],
        actions=actions,
        starts=np.array([0, size], np.int64),
        user=np.zeros(size, np.int32),
        item=item.astype(np.int32),
        action=np.concatenate(own_action),
        seq=np.concatenate([log.seq for log in logs]),
        at=np.concatenate([log.at for log in logs]),
        value=np.concatenate([log.value for log in logs]),
        scenes=scenes,
        scene=np.concatenate(own_scene),
    )
    return whole, places


def _only(log: Log, places: Array, rows: Array) -> tuple[Log, Array]:
    """The chosen rows of a log of one user, and the places of the items that are left."""
    used, item = np.unique(log.item[rows], return_inverse=True)
    kept = dataclasses.replace(
        log,
        items=[log.items[i] for i in used],
        starts=np.array([0, len(rows)], np.int64),
        user=log.user[rows],
        item=item.astype(np.int32),
        action=log.action[rows],
        seq=log.seq[rows],
        at=log.at[rows],
        value=log.value[rows],
        scene=log.scene[rows],
    )
    return kept, places[used]
