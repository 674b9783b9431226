"""What a log of offers, as AntM2C's, knew of its users: names of what they paid for, visited and searched.

A name becomes a behaviour of the user, with an action of its own, at the first offer whose row has it, and before that
offer. So it is read by whatever reads a past, by the rules that hold for every past; BAHE reads each action as a
sequence of its own. That a row has it once more says nothing new: the columns say what is known, not what happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from interest.types import KNOWN_ACTIONS, Item
from streams.files.offer_log import cells_of, names_of, titled_items
from streams.files.readers import TableFile
from streams.files.table import Chunk
from streams.files.text import is_missing, shown

if TYPE_CHECKING:
    from streams.files.rows import BehaviorLog, Rows

LONGEST = 200  # characters of a name; the rest is cut off
MOST_TOLD, LONGEST_TOLD = 3, 30  # names of an example, and characters of each


def with_entities(rows: Rows, chunk: Chunk, known: Mapping[str, str], separator: str | None) -> Rows:
    """The usable rows of a chunk, before each the names that its cells hold.

    Args:
        known: columns of names, and the action that a name of each becomes.
    """
    bad = {one.line for one in rows.rejected}
    kept = [place for place, line in enumerate(chunk.lines) if line not in bad]
    cells = {action: cells_of(chunk.columns[name]) for name, action in known.items()}
    source: list[int] = []  # of each row to come, the row that it is or stands before
    items: list[str | None] = []  # its name, none for the row itself
    actions: list[str] = []
    for row, place in enumerate(kept):
        for action, column in cells.items():
            names = _names(column[place], separator)
            items += [item_of(action, name) for name in names]
            actions += [action] * len(names)
            source += [row] * len(names)
        items.append(None)
        actions.append(rows.action[row])
        source.append(row)
    own = [(row, item is None) for row, item in zip(source, items, strict=True)]
    return msgspec.structs.replace(
        rows,
        user_id=[rows.user_id[row] for row in source],
        item_id=[rows.item_id[row] if item is None else item for row, item in zip(source, items, strict=True)],
        action=actions,
        at=rows.at[np.array(source, np.int64)],
        value=[rows.value[row] if itself else None for row, itself in own],
        scene=[rows.scene[row] if itself else None for row, itself in own],
        # a name's own id: by it ingest knows the name again in a later file (streams/ubsp/known_names.py)
        event_id=[rows.event_id[row] if item is None else item for row, item in zip(source, items, strict=True)],
    )


def only_first(chunks: Iterable[Rows]) -> Iterator[Rows]:
    """Rows in order of time without the names that the user has had before. Keeps a number a user and name."""
    seen: set[int] = set()
    for rows in chunks:
        keep: list[int] = []
        for row, (user, item, action) in enumerate(zip(rows.user_id, rows.item_id, rows.action, strict=True)):
            if action in KNOWN_ACTIONS:
                key = hash((user, item))
                if key in seen:
                    continue
                seen.add(key)
            keep.append(row)
        if len(keep) == len(rows):
            yield rows
            continue
        names = ("user_id", "item_id", "action", "value", "scene", "event_id")
        picked = {name: [getattr(rows, name)[row] for row in keep] for name in names}
        yield msgspec.structs.replace(rows, **picked, at=rows.at[np.array(keep, np.int64)])


def offered_catalogue(log: BehaviorLog) -> Iterator[tuple[str, Callable[[], Iterator[list[Item]]]]]:
    """What a log of offers brings of a catalogue: what it is, and how to read it, which may be asked for again."""
    separator = log.options.entity_separator
    if log.offers and log.offers.title:
        yield "items with titles", partial(titled_items, log.file, log.fields["item_id"], log.offers, separator)
    if log.entities:
        yield "names of what was known of users", partial(entity_items, log.file, log.entities, separator)


def entity_items(file: TableFile, known: Mapping[str, str], separator: str | None = None) -> Iterator[list[Item]]:
    """The names as items of the catalogue, each once, so that their texts are known."""
    seen: set[str] = set()
    for chunk in file.chunks(list(known)):
        new: dict[str, Item] = {}
        for name, action in known.items():
            for cell in cells_of(chunk.columns[name]):
                for entity in _names(cell, separator):
                    item = item_of(action, entity)
                    if item not in seen:
                        seen.add(item)
                        new[item] = Item(item_id=item, title=entity)
        yield list(new.values())


def split_examples(file: TableFile, columns: Sequence[str], separator: str | None) -> dict[str, tuple[str, str]]:
    """Of each column of names the longest cell of the first rows, and what it was split into.

    The longest, as the one most likely to hold several names: one name there is seen to be none.
    """
    for chunk in file.chunks(columns):
        longest = {name: max(cells_of(chunk.columns[name]), key=_length, default=None) for name in columns}
        return {name: (str(cell), _told(_names(cell, separator))) for name, cell in longest.items() if _length(cell)}
    return {}


def _length(cell: object) -> int:
    return 0 if is_missing(cell) else len(str(cell))


def _told(names: Sequence[str]) -> str:
    told = ", ".join(shown(name, LONGEST_TOLD) for name in names[:MOST_TOLD])
    return f"{len(names)} name{'s' * (len(names) != 1)}: {told}{', …' * (len(names) > MOST_TOLD)}"


def item_of(action: str, entity: str) -> str:
    """The id of a name: what is paid for and what is searched under one name are two."""
    return f"{action}:{entity}"


def _names(cell: object, separator: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name[:LONGEST].replace("\0", "") for name in names_of(cell, separator)))
