"""Logs of offers, as AntM2C's (arXiv 2308.16437): a row is an item that was offered; its label, whether it was taken.

Recognised by columns that a log of behaviours does not have together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from interest.types import KNOWN_ACTIONS, OFFERED, Item
from streams.files.lists import as_list
from streams.files.readers import TableFile
from streams.files.text import Column, as_text

LABEL = "label"
TITLE = "item_title"
ENTITIES = "item_entity_names"  # what the item is about: a list of names
BESIDE = ("log_time", "scene")  # which AntM2C's files have beside it
# what was known of the user at the offer, and the action that each name becomes (streams/files/entities.py)
KNOWN = dict(zip(("bill_entity_seq", "service_entity_seq", "query_entity_seq"), KNOWN_ACTIONS, strict=True))
ACTION_OF = {1.0: "click", 0.0: OFFERED}


def offer_label(columns: Sequence[str]) -> str:
    """The column that says whether an offer was taken; empty: the rows are not offers."""
    return LABEL if {LABEL, *BESIDE} <= set(columns) else ""


def titled_items(file: TableFile, item_id: str, separator: str | None = None) -> Iterator[list[Item]]:
    """The items that such a log names, each once, by its first row with a title; nothing where it has no titles.

    What the item is about becomes an attribute, its names with | between. What a row says of the user's bills, visits
    and searches is of the moment and not of the item.

    Args:
        item_id: the column of ids.
        separator: between the names of a cell; None: however a list may be written (`as_list`).
    """
    if TITLE not in file.columns:
        return
    seen: set[str] = set()
    wanted = [item_id, TITLE, *([ENTITIES] if ENTITIES in file.columns else [])]
    for chunk in file.chunks(wanted):
        ids, titles = (as_text(chunk.columns[name], name, {}, required=False) for name in (item_id, TITLE))
        about = cells_of(chunk.columns[ENTITIES]) if ENTITIES in file.columns else [None] * len(ids)
        new: dict[str, Item] = {}
        for item, title, names in zip(ids, titles, about, strict=True):
            if item and title and item not in seen:
                seen.add(item)
                new[item] = Item(item_id=item, title=title, attributes=_about(names, separator))
        yield list(new.values())


def _about(cell: Any, separator: str | None) -> dict[str, str]:
    names = names_of(cell, separator)
    return {ENTITIES: "|".join(names)} if names else {}


def cells_of(column: Column) -> Sequence[Any]:
    """A column's cells as Python has them."""
    cells: Sequence[Any] = column.to_pylist() if isinstance(column, pa.Array) else column
    return cells


def entity_columns(columns: Iterable[str]) -> tuple[str, ...]:
    """The columns that say what was known of the user."""
    return tuple(name for name in columns if name in KNOWN)


def names_of(cell: Any, separator: str | None) -> tuple[str, ...]:
    """The names that a cell of entities holds, each once."""
    if separator is not None and isinstance(cell, str):
        return tuple(dict.fromkeys(name for part in cell.split(separator) if (name := part.strip())))
    return as_list(cell)
