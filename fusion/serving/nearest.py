"""The common space of an artifact, for others: users and items as vectors whose dot product means something.

An item's vector is its place; a user's is where the whole past says that liking lies: the mean, over all behaviours, of
how much better than usual each item was liked, times the item's place. Their product is the match scalar `taste`, so
the greatest are the items most like what the user liked more than others do. Popularity is not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection

from fusion.features.log import Array, read_log
from fusion.features.match.scalars import taste_vector
from fusion.serving.match_side import KnownMatch, empty_match, read_on
from fusion.training.artifact import Artifact
from interest.errors import ArtifactError, InputError
from interest.store.sql import read_items
from interest.types import Item


class Nearest(NamedTuple):
    """An item and the dot product of its vector with a user's."""

    item_id: str
    title: str | None
    product: float


class CommonSpace:
    """An artifact's space. Raises ArtifactError for one that was trained without match scalars of places."""

    def __init__(self, artifact: Artifact) -> None:
        match, space = artifact.spec.match, artifact.space
        if match is None or space is None or "places" not in match.parts:
            raise ArtifactError(
                f"artifact {artifact.id} has no common space; train one with --match auto after `interestream fuse`, "
                "or with --match yes"
            )
        self._spec, self._known = artifact.spec, KnownMatch(match, space)
        self._number = {item: number for number, item in enumerate(artifact.spec.items[: artifact.spec.trained_items])}
        self.width = int(space.place.shape[1])

    def items(self, connection: Connection, ids: Sequence[str], catalogue: Mapping[str, Item]) -> Array:
        """(n, K) float32, of items as the catalogue describes them; zeros for one of which nothing is known."""
        made, _ = self._known.look_up(connection, ids, catalogue, self._numbers(ids))
        return made.place

    def user(self, connection: Connection, user_id: str) -> Array:
        """(K,) float32, by the user's whole past; zeros without one."""
        log = read_log(connection, [user_id])
        known = KnownMatch(self._known.spec, self._known.space)
        catalogue = read_items(connection, log.items)
        known.add(*known.look_up(connection, log.items, catalogue, self._numbers(log.items)))
        side = read_on(empty_match(known), self._spec, known, log, np.arange(len(log.items)) + 1)
        return np.asarray(taste_vector(side.sums[None])[0], np.float32)

    def _numbers(self, ids: Sequence[str]) -> Array:
        """(n,): of items in the space, -1 for others."""
        return np.array([self._number.get(item, -1) for item in ids], np.int64)

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
