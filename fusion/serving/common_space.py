"""The common space of an artifact, for others: users and items as vectors whose dot product means something.

An item's vector is its place; a user's is where the whole past says that liking lies: the mean, over all behaviours, of
how much better than usual each item was liked, times the item's place. Their product is the match scalar `taste`, so
the greatest are the items most like what the user liked more than others do. Popularity is not in it.

Vectors are stored and compared byte by byte, so they must not depend on what else is computed with them: items are
looked up ROWS at a time, missing ones empty, so that matrix products keep their shape, and a past is added up event by
event, from whatever sums an earlier partition left.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection

from fusion.features.log import Array, read_after, read_log
from fusion.features.match.features import MatchItems, MatchSpec, feedback_of, match_events
from fusion.features.match.scalars import taste_columns, taste_vector
from fusion.features.match.space import Space
from fusion.serving.match_side import KnownMatch
from fusion.training.artifact import Artifact
from interest.errors import ArtifactError, InputError
from interest.store.sql import read_items
from interest.types import Item

ROWS = 64  # items looked up together
AT_ONCE = 1024  # of a whole catalogue: a tenth of a second


class Nearest(NamedTuple):
    """An item and the dot product of its vector with a user's."""

    item_id: str
    title: str | None
    product: float


def common_space(artifact: Artifact) -> CommonSpace | None:
    """The artifact's space; none: it was trained without match scalars of places."""
    return None if _fitted(artifact) is None else CommonSpace(artifact)


def _fitted(artifact: Artifact) -> tuple[MatchSpec, Space] | None:
    match, space = artifact.spec.match, artifact.space
    return None if match is None or space is None or "places" not in match.parts else (match, space)


class CommonSpace:
    """An artifact's space. Raises ArtifactError for one that was trained without match scalars of places."""

    def __init__(self, artifact: Artifact) -> None:
        fitted = _fitted(artifact)
        if fitted is None:
            raise ArtifactError(f"artifact {artifact.id} has no common space; train one without --match no")
        match, space = fitted
        self.artifact = artifact.id
        self._label, self._known = artifact.spec.label, KnownMatch(match, space)
        self._number = {item: number for number, item in enumerate(artifact.spec.items[: artifact.spec.trained_items])}
        self.width = int(space.place.shape[1])

    def items(self, connection: Connection, ids: Sequence[str], catalogue: Mapping[str, Item]) -> Array:
        """(n, K) float32, of items as the catalogue describes them; zeros for one of which nothing is known."""
        return self._look_up(connection, ids, catalogue).place

    def every_item(self, connection: Connection) -> Iterator[tuple[list[str], Array]]:
        """The catalogue's items and their vectors, (n, K), in pieces."""
        catalogue = read_items(connection)
        ids = sorted(catalogue)
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            yield some, self.items(connection, some, catalogue)

    def user(self, connection: Connection, user_id: str) -> Array:
        """(K,) float32, by the user's whole past; zeros without one."""
        return self.vector(self.sums(connection, user_id, [sys.maxsize])[0])

    def sums(
        self, connection: Connection, user_id: str, ends: Sequence[int], after: int = -1, sums: Array | None = None
    ) -> Array:
        """What the user's past adds up to (`taste_sums`), up to each of these sequence numbers: (n, 2 K + 2) float64.

        ends: ascending. after, sums: what it adds up to until there, from where reading goes on.
        """
        reached = np.zeros(2 * self.width + 2) if sums is None else sums
        out = np.tile(reached, (len(ends), 1))
        for log in read_after(connection, user_id, after):
            items = self._look_up(connection, log.items, read_items(connection, log.items))
            events = match_events(self._known.space, items, log, feedback_of(log, self._label))
            running = np.cumsum(np.vstack([reached, taste_columns(items.place, events)]), axis=0)  # one by one
            for row, end in enumerate(ends):
                if end >= log.seq[0]:
                    out[row] = running[np.searchsorted(log.seq, end, side="right")]
            reached = running[-1]
            if ends and log.seq[-1] >= ends[-1]:
                break
        return out

    @staticmethod
    def vector(sums: Array) -> Array:
        """(K,) float32 of (2 K + 2,): whose product with an item's vector is the match scalar `taste`."""
        return np.asarray(taste_vector(sums[None])[0], np.float32)

    def _look_up(self, connection: Connection, ids: Sequence[str], catalogue: Mapping[str, Item]) -> MatchItems:
        """The items without their texts' vectors, which would be most of it."""
        place, bias = np.empty((len(ids), self.width), np.float32), np.empty(len(ids), np.float32)
        for start in range(0, len(ids), ROWS):
            some = ids[start : start + ROWS]
            padded = [*some, *[""] * (ROWS - len(some))]
            number = np.array([self._number.get(item, -1) for item in padded], np.int64)
            made, _ = self._known.look_up(connection, padded, catalogue, number)
            place[start : start + ROWS], bias[start : start + ROWS] = made.place[: len(some)], made.bias[: len(some)]
        nothing = np.empty((len(ids), 0), np.float32)
        none = np.zeros_like(bias)
        return MatchItems(place, bias, support=none, bias_by_text=none, text=nothing, year=nothing)

    def nearest(self, connection: Connection, user_id: str, top: int, *, seen: bool = False) -> list[Nearest]:
        """The catalogue's items with the greatest dot product, the greatest first.

        seen: with those that the user has acted on already. Raises InputError for a user without behaviours.
        """
        log = read_log(connection, [user_id])
        if not log.size:
            raise InputError(f"user {user_id} has no behaviours in the store")
        catalogue = read_items(connection)
        acted = set() if seen else set(log.items)
        left = [item for item in catalogue if item not in acted]
        products = self.items(connection, left, catalogue) @ self.user(connection, user_id)
        order = np.argsort(-products, kind="stable")[:top]
        return [Nearest(left[one], catalogue[left[one]].title, float(products[one])) for one in order]
