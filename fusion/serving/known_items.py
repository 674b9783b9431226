"""Items as an artifact sees them, looked up once each and kept between requests, and again when the catalogue changes.

An item has a place, a number that stays. Its features are those of `item_table`; for a folding model its embedding is
kept too, and for match scalars what its space says of it. The store has one counter of changes for all its items, and
one of texts' vectors: an item is read again when it is next asked for and the first has moved, or the second and its
own vector was not there. Changes of features are numbered, and an item keeps the number of its last, so that whoever
summed them knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection

from fusion.features.counts import ItemStatistics, item_columns
from fusion.features.log import Array
from fusion.features.match.features import MatchItems
from fusion.features.match.space import Space
from fusion.features.modalities import has, lacking, padding, read_modalities
from fusion.features.spec import CATEGORY_SLOTS, FeatureSpec, ItemTable, item_table
from fusion.serving.growing import Growing
from fusion.serving.match_side import KnownMatch
from interest.store.sql import read_items
from interest.types import Item

STRANGER = 0  # the place of every item that neither the artifact nor the catalogue has
ITEM_BYTES = 400  # of an item's id, its entries in dicts and its rows; its catalogue entry comes to as much again

_BY_PLACE = (  # the arrays by place
    "number", "row", "categories", "attributes", "keys", "counts", "slots", "listed", "checked", "looked", "changed",
    "vectors", "embedding",
)  # fmt: skip
Embed = Callable[[ItemTable], Array]  # (I + 1, d) float32, of the table's rows


class ItemCounts(NamedTuple):
    """Where the store stands with its items."""

    catalogue: int  # changes of the catalogue so far
    vectors: int  # times that vectors of items' texts came in


class KnownItems:
    """Places of items, and arrays by place. Not thread-safe."""

    def __init__(
        self,
        spec: FeatureSpec,
        statistics: ItemStatistics,
        embed: Embed | None = None,
        *,
        texts: bool = False,
        space: Space | None = None,
    ) -> None:
        """statistics: the artifact's. embed: the model's item embeddings, to be kept.

        texts: keep what the catalogue says, for who reads titles. space: the artifact's, where its spec has match
        scalars.
        """
        self._spec, self._statistics, self._embed, self._texts = spec, statistics, embed, texts
        self._number = {item: number for number, item in enumerate(spec.items)}
        self._place: dict[str, int] = {}
        self.ids: list[str] = [""]
        self.catalogue: dict[str, Item] = {}
        none = item_table(spec, ["\0"], {}, self._number)
        self.number = np.array([-1], np.int64)
        self.row, self.categories, self.attributes = none.row[1:], none.categories[1:], none.attributes[1:]
        self.vectors = None if none.vectors is None else none.vectors[1:]  # of modalities
        self.keys = none.keys[1:]
        self.counts = self._counted(self.number)  # (P, 6) of `item_columns`
        self.slots = np.zeros(1, np.int64)  # categories of each
        self.most_categories = 0  # that any has
        self.listed = np.zeros(1, bool)  # whether the catalogue has it
        self.checked = np.zeros(1, np.int64)  # the catalogue's count when it was read
        self.looked = np.zeros(1, np.int64)  # the vectors' count then
        self.version = 0  # the number of the newest change
        self.changed = np.zeros(1, np.int64)  # the number of the change by which it was last another than before
        self.embedding = None if embed is None else embed(none)[1:]
        self.match = None if spec.match is None or space is None else KnownMatch(spec.match, space)
        self._growing = {name: Growing(rows) for name in _BY_PLACE if (rows := getattr(self, name)) is not None}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        size = (len(self.ids) + len(self.catalogue)) * ITEM_BYTES + (0 if self.match is None else self.match.nbytes)
        return size + sum(growing.nbytes for growing in self._growing.values())

    def places(self, connection: Connection, ids: Sequence[str], count: ItemCounts, *, keep: bool = False) -> Array:
        """(n,) int64 places of items, as the store has them at `count`.

        keep: also give a place to items that nothing is known of, as for a past, whose items may become known later;
        a request's would fill memory with whatever is asked for.
        """
        found = list(map(self._place.get, ids))
        if None in found:
            unseen = [item for item in dict.fromkeys(ids) if item not in self._place]
            self._add(connection, unseen, count, keep=keep)
            places = self.held(ids)
        else:
            places = np.array(found, np.int64)
        self.check(connection, places, count)
        return places

    def held(self, ids: Sequence[str]) -> Array:
        """(n,) int64 places of items by what is known already."""
        return np.fromiter(map(self._place.get, ids, repeat(STRANGER)), np.int64, len(ids))

    def check(self, connection: Connection, places: Array, count: ItemCounts) -> None:
        """Read items of these places again if they may have changed by `count`."""
        old = self.checked[places] < count.catalogue
        if self.match is not None:
            old |= (self.looked[places] < count.vectors) & self.match.wanting[places]
        if self.vectors is not None:  # a text's vector may come after its item
            old |= (self.looked[places] < count.vectors) & lacking(self._spec.item_modalities, self.vectors[places])
        old = np.unique(places[old & (places != STRANGER)])
        if not len(old):
            return
        ids = [self.ids[place] for place in old]
        found = read_items(connection, ids)
        table = self._table(connection, ids, found)
        matched = self._match(connection, ids, found, table)  # all that is read comes before what is changed
        same = (self.categories[old] == table.categories[1:]).all(axis=1)
        same &= (self.attributes[old] == table.attributes[1:]).all(axis=1)
        if self.vectors is not None and table.vectors is not None:
            same &= (self.vectors[old] == table.vectors[1:]).all(axis=1)
        same &= (self.keys[old] == table.keys[1:]).all(axis=1)
        if self._texts:
            same &= np.array([found.get(item) == self.catalogue.get(item) for item in ids])
            self._tell(found, ids)
        if self.match is not None and matched is not None:
            same &= self.match.replace(old, *matched)
        self.checked[old], self.looked[old] = count
        self.listed[old] = [item in found for item in ids]
        other = old[~same]
        if len(other):
            rows = np.flatnonzero(~same) + 1
            self.version += 1
            self.categories[other], self.attributes[other] = table.categories[rows], table.attributes[rows]
            self.slots[other] = self._slots(table.categories[rows])
            if self.vectors is not None and table.vectors is not None:
                self.vectors[other] = table.vectors[rows]
            self.keys[other] = table.keys[rows]
            self.changed[other] = self.version
            if self._embed is not None and self.embedding is not None:
                self.embedding[other] = self._embed(self.table(other))[1:]

    def table(self, places: Array) -> ItemTable:
        """The features of (n,) places as samples want them: row 0 is padding, item i is row i + 1."""
        nothing = np.zeros(1, np.int32)
        return ItemTable(
            np.concatenate([nothing, self.row[places]]),
            np.concatenate([nothing - 1, self.number[places]]),
            np.concatenate([np.zeros((1, CATEGORY_SLOTS), np.int32), self.categories[places]]),
            np.concatenate([np.zeros((1, self.attributes.shape[1]), np.int32), self.attributes[places]]),
            np.concatenate([np.zeros((1, self.keys.shape[1]), np.int32), self.keys[places]]),
            None
            if self.vectors is None
            else np.concatenate([padding(self._spec.item_modalities), self.vectors[places]]),
        )

    def unknown(self, places: Array) -> Array:
        """(n,) bool: neither the artifact nor the catalogue has it."""
        return (self.number[places] < 0) & ~self.listed[places]

    def _add(self, connection: Connection, ids: Iterable[str], count: ItemCounts, *, keep: bool) -> None:
        found, wanted = read_items(connection, ids), list(ids)
        looks = self._looking(connection, wanted, found)
        new = [item for item in wanted if keep or item in found or item in self._number or item in looks]
        if not new:
            return
        table = self._table(connection, new, found)
        matched = self._match(connection, new, found, table)
        self._place |= {item: len(self.ids) + i for i, item in enumerate(new)}
        self.ids += new
        self._tell(found, new)
        counts = np.full((2, len(new)), np.array(count)[:, None], np.int64)
        further: dict[str, Array | None] = {
            "number": table.number[1:], "row": table.row[1:], "categories": table.categories[1:],
            "attributes": table.attributes[1:], "keys": table.keys[1:], "counts": self._counted(table.number[1:]),
            "slots": self._slots(table.categories[1:]), "listed": np.array([item in found for item in new], bool),
            "checked": counts[0], "looked": counts[1], "changed": counts[0] * 0,
            "vectors": None if table.vectors is None else table.vectors[1:],
            "embedding": None if self._embed is None else self._embed(table)[1:],
        }  # fmt: skip
        for name, growing in self._growing.items():
            rows = further[name]
            assert rows is not None
            setattr(self, name, growing.append(rows))
        if self.match is not None and matched is not None:
            self.match.add(*matched)

    def _counted(self, number: Array) -> Array:
        return item_columns(self._statistics.take(number), self._spec.scale)

    def _slots(self, categories: Array) -> Array:
        slots: Array = (categories > 0).sum(axis=1)
        self.most_categories = max(self.most_categories, int(slots.max(initial=0)))
        return slots

    def _looking(self, connection: Connection, ids: Sequence[str], found: dict[str, Item]) -> set[str]:
        """Those of the items that have the vector of any modality: something is known of them."""
        every = read_modalities(connection, self._spec.item_modalities, ids, found)
        return {item for raw in every for item, there in zip(ids, has(raw), strict=True) if there}

    def _table(self, connection: Connection, ids: Sequence[str], found: dict[str, Item]) -> ItemTable:
        looks = read_modalities(connection, self._spec.item_modalities, ids, found)
        return item_table(self._spec, ids, found, self._number, looks or None)

    def _match(
        self, connection: Connection, ids: Sequence[str], found: dict[str, Item], table: ItemTable
    ) -> tuple[MatchItems, Array] | None:
        if self.match is None:
            return None
        return self.match.look_up(connection, ids, found, self._spec.trained(table.number[1:]))

    def _tell(self, found: dict[str, Item], ids: Sequence[str]) -> None:
        if self._texts:
            for item in ids:
                self.catalogue.pop(item, None)
            self.catalogue |= found
