"""What match scalars need, carried forward: items by place, and of a user the newest behaviours and the past's sums.

The scalars themselves are made in `fusion.features.match`, from these as from a log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection

from fusion.features.impressions import Impressions, PastIndex
from fusion.features.interest_vectors import InterestVectors
from fusion.features.log import Array, Log
from fusion.features.match.features import (
    MatchItems,
    MatchSpec,
    divided,
    feedback_of,
    match_events,
    match_items,
    match_scalars,
)
from fusion.features.match.item_vectors import item_texts, read_item_vectors
from fusion.features.match.scalars import LOOKS_BACK, Events, taste_columns
from fusion.features.match.space import Space
from fusion.features.spec import FeatureSpec
from fusion.serving.growing import Growing
from interest.types import Item


class KnownMatch:
    """A space's view of the items of `KnownItems`, by their places."""

    def __init__(self, spec: MatchSpec, space: Space) -> None:
        self.spec, self.space = spec, space
        self.items = match_items(spec, space, np.array([-1]), None)  # of the item that nothing is known of
        self.wanting = np.zeros(1, bool)  # whether it has a text whose vector the store did not have
        self._growing = [Growing(column) for column in (*_columns(self.items), self.wanting)]

    @property
    def nbytes(self) -> int:
        return sum(growing.nbytes for growing in self._growing)

    def add(self, made: MatchItems, wanting: Array) -> None:
        """Further items, as looked up."""
        both = zip(self._growing, (*_columns(made), wanting), strict=True)
        *columns, self.wanting = (own.append(new) for own, new in both)
        self.items = MatchItems(*columns)

    def replace(self, places: Array, made: MatchItems, wanting: Array) -> Array:
        """What was looked up again, in its places: (n,) bool, which are as before."""
        self.wanting[places] = wanting
        same = np.ones(len(places), bool)
        for own, new in zip(_columns(self.items), _columns(made), strict=True):
            same &= (own[places] == new).reshape(len(places), -1).all(axis=1)
            own[places] = new
        return same

    def look_up(
        self, connection: Connection, ids: Sequence[str], catalogue: Mapping[str, Item], number: Array
    ) -> tuple[MatchItems, Array]:
        """Items as the store has them, and which are wanting. number: (n,) of the space's, -1 for others."""
        vectors = read_item_vectors(connection, self.spec, ids, catalogue)
        wanting = np.zeros(len(ids), bool)
        if self.spec.encoder and vectors is not None:
            text, _ = divided(self.spec, vectors, len(ids))
            assert text is not None
            told = item_texts(connection, self.spec.template, ids, catalogue)
            wanting = np.array(list(map(bool, told)), bool) & ~text.any(axis=1)
        return match_items(self.spec, self.space, number, vectors), wanting


def _columns(items: MatchItems) -> list[Array]:
    return [items.place, items.bias, items.support, items.bias_by_text, items.text, items.year]


@dataclass(frozen=True, slots=True)
class MatchSide:
    """A user's: the newest LOOKS_BACK behaviours, by their items' places, and sums over all of them."""

    newest: Events
    sums: Array  # (S,) float64, see `taste_sums`

    @property
    def nbytes(self) -> int:
        return int(self.sums.nbytes) + sum(int(column.nbytes) for column in _events(self.newest))


def empty_match(known: KnownMatch) -> MatchSide:
    """Of a user without a past."""
    nothing = np.empty(0, bool)
    newest = Events(np.empty(0, np.int64), np.empty(0, np.float32), nothing, nothing, nothing)
    return MatchSide(newest, np.zeros(2 * known.items.place.shape[1] + 2))


def read_on(side: MatchSide, spec: FeatureSpec, known: KnownMatch, log: Log, places: Array) -> MatchSide:
    """The side with one user's next behaviours, whose items have these places: (I,), by the log's numbers."""
    items = MatchItems(*(column[places] for column in _columns(known.items)))
    own = match_events(known.space, items, log, feedback_of(log, spec.label))
    sums = side.sums + taste_columns(items.place, own).sum(axis=0)
    new = Events(places[log.item], own.residual, own.says, own.liked, own.disliked)
    both = zip(_events(side.newest), _events(new), strict=True)
    return MatchSide(Events(*(np.concatenate(pair)[-LOOKS_BACK:] for pair in both)), sums)


def _events(events: Events) -> list[Array]:
    return [events.item, events.residual, events.says, events.liked, events.disliked]


def scalars(
    side: MatchSide,
    spec: FeatureSpec,
    known: KnownMatch,
    places: Array,
    moment: Impressions,
    interests: InterestVectors | None,
) -> Array:
    """The match scalars of one user's candidates with these places, (n,): (n, F) float32, not yet standardised.

    moment: the candidates as impressions, of which the sequence numbers and times say what partitions they see.
    """
    size = len(side.newest.item)
    impressions = Impressions(
        user=moment.user,
        item=places,
        at=moment.at,
        seq=moment.seq,
        first=np.zeros(len(places), np.int64),
        stop=np.full(len(places), size),
    )
    past = PastIndex(np.arange(size), np.zeros(size, np.int64))
    sums = side.sums[None]
    return match_scalars(
        known.spec, known.space, known.items, side.newest, impressions, past, sums, interests, spec.partitions
    )
