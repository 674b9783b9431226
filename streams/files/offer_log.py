"""Logs of offers, as AntM2C's (arXiv 2308.16437): a row is an item that was offered; its label, whether it was taken.

Recognised by columns that a log of behaviours does not have together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from interest.types import OFFERED, Item
from streams.files.readers import TableFile
from streams.files.text import as_text

LABEL = "label"
TITLE = "item_title"
BESIDE = ("log_time", "scene")  # which AntM2C's files have beside it
ACTION_OF = {1.0: "click", 0.0: OFFERED}


def offer_label(columns: Sequence[str]) -> str:
    """The column that says whether an offer was taken; empty: the rows are not offers."""
    return LABEL if {LABEL, *BESIDE} <= set(columns) else ""


def titled_items(file: TableFile, item_id: str) -> Iterator[list[Item]]:
    """The items that such a log names, with their titles, each once; nothing where it has no titles.

    item_id: the column of ids. What else a row says (`item_entity_names` too) is of the offer and not of the item.
    """
    seen: set[str] = set()
    for chunk in file.chunks([item_id, TITLE]) if TITLE in file.columns else ():
        ids, titles = (as_text(chunk.columns[name], name, {}, required=False) for name in (item_id, TITLE))
        new = {item: title for item, title in zip(ids, titles, strict=True) if item and title and item not in seen}
        seen |= new.keys()
        yield [Item(item_id=item, title=title) for item, title in new.items()]
