"""Logs of offers, as AntM2C's (arXiv 2308.16437): a row is an item that was offered; its label, whether it was taken.

Recognised by columns that a log of behaviours does not have together, or by `--map label=COLUMN`. A file that has some
of them only is refused: read as behaviours, what nobody took would be history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from interest.errors import InputError
from interest.types import KNOWN_ACTIONS, Item
from streams.files.lists import as_list
from streams.files.mapping import usual_columns
from streams.files.numbers import ValueRange, as_numbers
from streams.files.readers import TableFile
from streams.files.text import Column, Reasons, as_text

LABEL = "label"
TITLE = "item_title"
ENTITIES = "item_entity_names"  # what the item is about: a list of names
SAMPLE = 1_000  # rows by which a label is known: the first
BESIDE = ("log_time", "scene")  # which AntM2C's files have beside it
# what was known of the user at the offer, and the action that each name becomes (streams/files/entities.py)
KNOWN = dict(zip(("bill_entity_seq", "service_entity_seq", "query_entity_seq"), KNOWN_ACTIONS, strict=True))
TAKEN = "click"  # the action of what was taken, where nothing says another
LABELS = (0.0, 1.0)


class OfferColumns(msgspec.Struct, frozen=True, kw_only=True):
    """What the columns of such a log are called in the file; empty: it has none."""

    label: str
    title: str = ""
    about: str = ""
    known: Mapping[str, str] = {}  # of those that say what was known of the user, the action that a name becomes


def find_offers(
    file: TableFile, column_map: Mapping[str, str], *, action: str | None, action_column: str
) -> OfferColumns | None:
    """The columns, if the rows are offers.

    Args:
        column_map: what --map says of the log; its label makes any log one of offers.
        action: what --action says; with it, or an action by --map, a label that is not named by --map is just a column.
        action_column: the column of actions, however it was found.

    Raises:
        InputError: the file looks like a log of offers, and is not one.
    """
    at = {name: _column(file, name) for name in (LABEL, TITLE, ENTITIES, *BESIDE)}
    known = {column: action for name, action in KNOWN.items() if (column := _column(file, name))}
    label = column_map.get(LABEL, "")
    if not label:
        if action or "action" in column_map:
            return None
        if at[LABEL] in column_map.values():  # --map value=label
            return None
        missing = [name for name in (LABEL, *BESIDE) if not at[name]]
        if missing or action_column:
            _refuse_half(file, at[LABEL], tuple(known), missing, action_column)
            return None
        label = at[LABEL]
    return OfferColumns(label=label, title=at[TITLE], about=at[ENTITIES], known=known)


def _column(file: TableFile, name: str) -> str:
    return next(iter(usual_columns(file.columns, [name])), "")


def _refuse_half(file: TableFile, label: str, known: Sequence[str], missing: Sequence[str], action_column: str) -> None:
    """Raise InputError if a file that is not known as one of offers may be one."""
    signs = [*([label] if label and (known or _is_label(file, label)) else []), *known]
    if not signs:
        return
    lacks = " and ".join(
        [f"there is no column {name}" for name in missing]
        + [f"the column {name} is read as the action" for name in [action_column] if name]
    )
    behaviors = f"--map action={action_column}" if action_column else "--action NAME"
    raise InputError(
        f"{file.path}: {', '.join(signs)} may be of a log of offers, where label 0 is what nobody took and no history; "
        f"but it is not known as one, for {lacks}. Say what it is: --map label={label or 'COLUMN'}, if a column of 1 "
        f"and 0 says what was taken; {behaviors}, if every row is a behaviour and {', '.join(signs)} just columns"
    )


def _is_label(file: TableFile, column: str) -> bool:
    """Whether the first rows have 0 and 1 and nothing else there."""
    for chunk in file.chunks([column], size=SAMPLE):
        reasons: Reasons = {}
        found = set(as_numbers(chunk.columns[column], column, reasons, ValueRange())) - {None}
        return bool(found) and not reasons and found <= set(LABELS)
    return False


def titled_items(
    file: TableFile, item_id: str, offers: OfferColumns, separator: str | None = None
) -> Iterator[list[Item]]:
    """The items that such a log names, each once, by its first row with a title; nothing where it has no titles.

    What the item is about becomes an attribute, its names with | between. What a row says of the user's bills, visits
    and searches is of the moment and not of the item.

    Args:
        item_id: the column of ids.
        separator: between the names of a cell; None: however a list may be written (`as_list`).
    """
    if not offers.title:
        return
    seen: set[str] = set()
    for chunk in file.chunks([item_id, *filter(None, (offers.title, offers.about))]):
        ids, titles = (as_text(chunk.columns[name], name, {}, required=False) for name in (item_id, offers.title))
        about = cells_of(chunk.columns[offers.about]) if offers.about else [None] * len(ids)
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


def names_of(cell: Any, separator: str | None) -> tuple[str, ...]:
    """The names that a cell of entities holds, each once."""
    if separator is not None and isinstance(cell, str):
        return tuple(dict.fromkeys(name for part in cell.split(separator) if (name := part.strip())))
    return as_list(cell)
