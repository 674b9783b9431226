"""Which keys a model reads of a user, fitted to the training part and saved with the FeatureSpec. Knows no user.

A kind of key is the item itself, its categories, every attribute of the catalogue that groups items (director, brand:
not a title, which says the same as the item), and the scene of a behaviour. A text that is a list ("Tom Hanks|Tim
Allen") is several keys, as an item's categories are. A text that training has not met is not a key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from fusion.features.log import Array
from interest.errors import InputError
from interest.types import Item

ITEM, CATEGORIES, SCENE = "item", "categories", "scene"
BETWEEN = "|"  # of the texts of a list
MOST_LISTED = 8  # of one item's list that are looked at, the first, as of its categories
GROUPS = 0.75  # an attribute is a kind of key if it has at most this many distinct texts for each that an item has
MOST_KINDS = 4  # attributes that are read unless they are named: those that most items have
MOST_TEXTS = 50_000  # of one attribute, the most frequent
MOST_BUCKETS = 15  # categories with a bucket of their own in the partition; the others share one
MOST_ACTIONS = 8  # that are counted apart


class KeyChoice(NamedTuple):
    """That a model reads keys, and of which attributes: None are those that group items."""

    attributes: tuple[str, ...] | None = None


class KeySpec(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's text."""

    kinds: tuple[str, ...]  # `item`, `categories` and `scene` where there are any, and the attributes
    attributes: dict[str, tuple[str, ...]]  # the texts of every attribute that is a kind, from row 2 on
    buckets: tuple[int, ...]  # the rows of the categories that have a bucket of their own
    actions: int  # whose behaviours are counted apart, the first of the spec's; 0: the log has one action
    recent: int = 8  # keys of a kind that attention reads because they were met among the newest `back` behaviours
    back: int = 16
    frequent: int = 16  # and those because they were met most often
    window: int = 20_000  # behaviours of the user after which a key that was not met again is forgotten
    scene_matched: bool | msgspec.UnsetType = msgspec.UNSET  # the offer's scene is a key of the candidate; unset: not

    listed: dict[str, int] | msgspec.UnsetType = msgspec.UNSET  # keys of an item, by attribute; unset: a list is one

    def slots(self, attribute: str) -> int:
        """How many keys of an attribute an item has at most."""
        return 1 if isinstance(self.listed, msgspec.UnsetType) else self.listed.get(attribute, 1)

    @property
    def columns(self) -> dict[str, slice]:
        """Where every attribute's keys stand in `attribute_rows`."""
        ends = np.cumsum([self.slots(name) for name in self.attributes]).tolist()
        return {name: slice(end - self.slots(name), end) for name, end in zip(self.attributes, ends, strict=True)}

    @property
    def grid(self) -> int:
        """Buckets of categories: of all behaviours, of each that has its own, of all other categories."""
        return len(self.buckets) + 2


def fit_keys(
    items: Sequence[str],
    catalogue: Mapping[str, Item],
    categories: Sequence[str],
    actions: int,
    *,
    scenes: bool,
    offered: bool,
    first: int,
    attributes: Sequence[str] | None = None,
) -> KeySpec:
    """The keys of a log whose training part has these items.

    categories: the spec's, whose rows begin at `first`. scenes: there are any; offered: models read that of the offer,
    so that it is a key of the candidate. attributes: the kinds among the catalogue's attributes, if not
    those that group items. Raises InputError where one that was named is not in the catalogue.
    """
    held = [catalogue[item] for item in items if item in catalogue]
    having, longest, texts = Counter[str](), dict[str, int](), dict[str, Counter[str]]()
    for item in held:
        for name, text in item.attributes.items():
            parts = texts_of(text)
            if parts:
                having[name] += 1
                longest[name] = max(longest.get(name, 1), len(parts))
                texts.setdefault(name, Counter()).update(parts)
    if attributes is None:
        grouping = [n for n, found in texts.items() if 2 <= len(found) <= GROUPS * found.total()]
        chosen = sorted(sorted(grouping), key=lambda name: -having[name])[:MOST_KINDS]
    else:
        missing = [name for name in attributes if name not in texts]
        if missing:
            known = ", ".join(sorted(texts)) or "none at all"
            raise InputError(f"--key {missing[0]}: no item of the training part has this attribute; they have {known}")
        chosen = list(dict.fromkeys(attributes))
    chosen = [name for name in chosen if name not in (ITEM, CATEGORIES, SCENE)]
    named = Counter(category for item in held for category in item.categories)
    order = sorted(range(len(categories)), key=lambda row: (-named[categories[row]], row))
    return KeySpec(
        kinds=(ITEM, *([CATEGORIES] if categories else []), *sorted(chosen), *([SCENE] if scenes else [])),
        attributes={
            name: tuple(sorted(text for text, _ in texts[name].most_common(MOST_TEXTS))) for name in sorted(chosen)
        },
        buckets=tuple(row + first for row in sorted(order[:MOST_BUCKETS])),
        actions=min(actions, MOST_ACTIONS) if actions > 1 else 0,
        scene_matched=True if scenes and offered else msgspec.UNSET,
        listed={name: longest[name] for name in sorted(chosen)},
    )


def texts_of(text: str) -> tuple[str, ...]:
    """The distinct texts of a list, of which a plain text is one: the first MOST_LISTED."""
    return tuple(dict.fromkeys(part for own in text.split(BETWEEN) if (part := own.strip())))[:MOST_LISTED]


def attribute_rows(spec: KeySpec, ids: Sequence[str], catalogue: Mapping[str, Item], first: int) -> Array:
    """(I + 1, A) int32, by `KeySpec.columns`: the items' attributes that are kinds, 0 for none. Row 0 is padding."""
    columns = spec.columns
    table = np.zeros((len(ids) + 1, sum(map(spec.slots, columns))), np.int32)
    for name, texts in spec.attributes.items():
        rows, own = {text: row for row, text in enumerate(texts, first)}, columns[name]
        for i, item_id in enumerate(ids, 1):
            item = catalogue.get(item_id)
            text = "" if item is None else item.attributes.get(name, "")
            parts = (text,) if spec.listed is msgspec.UNSET else texts_of(text)[: spec.slots(name)]
            met = [rows.get(part, 0) for part in parts]
            table[i, own.start : own.start + len(met)] = met
    return table
