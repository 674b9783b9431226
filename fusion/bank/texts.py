"""Which texts the store's behaviours and items make: all of them, or those of some behaviours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, bindparam, func, select

from fusion.bank.vectors import OnRemoval, note_size, read_keys, read_recipes, remove, remove_keys
from fusion.bank.watermarks import Span, read_watermarks
from fusion.encoders.behavior_text import Template, behavior_text, item_text
from interest.store.sql import read_items
from interest.store.tables import behaviors
from interest.types import Item

_TEXT_COLUMNS = (behaviors.c.item_id, behaviors.c.action, behaviors.c.value)


class StoreTexts(NamedTuple):
    """The texts that a store's behaviours and items make."""

    texts: list[str]  # distinct: of behaviours first, then of items
    behaviors: int  # in the store
    distinct: int  # texts that these make


def store_texts(connection: Connection, template: Template) -> StoreTexts:
    """Every text that a user's history or a candidate can have. One pass over the behaviours: 2 s for a million."""
    catalogue = read_items(connection)
    rows = connection.execute(
        select(*_TEXT_COLUMNS, func.count()).group_by(*_TEXT_COLUMNS).order_by(*_TEXT_COLUMNS)
    ).all()
    texts = _texts(template, catalogue, [row[:3] for row in rows])
    distinct = dict.fromkeys([*texts, *(item_text(template, item) for item in catalogue.values())])
    distinct.pop("", None)
    return StoreTexts(list(distinct), sum(row[3] for row in rows), len(texts))


def span_texts(connection: Connection, template: Template, spans: Iterable[Span]) -> list[str]:
    """The distinct texts of some behaviours, and of their items."""
    within = behaviors.c.seq.between(bindparam("first"), bindparam("last"))
    query = select(*_TEXT_COLUMNS).where(behaviors.c.user_id == bindparam("user_id"), within).order_by(behaviors.c.seq)
    rows: dict[tuple[Any, ...], None] = {}
    for span in spans:  # each is one range of the key
        rows |= dict.fromkeys(tuple(row) for row in connection.execute(query, span._asdict()))
    catalogue = read_items(connection, {row[0] for row in rows})
    items = (item_text(template, item) for item in catalogue.values())
    return [text for text in dict.fromkeys([*_texts(template, catalogue, rows), *items]) if text]


def collect_garbage(
    engine: Engine, keep: Sequence[str] | None = None, on_removal: OnRemoval = lambda _: None
) -> dict[str, int]:
    """Garbage collection: remove the banks not in `keep` (None: all stay), and vectors of texts that the store no
    longer makes; return how many vectors went, by bank. on_removal: see `fusion.bank.vectors.remove`.

    Keys and watermarks are read before texts: a text that comes in meanwhile is in both, or not among the keys, or
    nothing led to it before and its user's watermark is newer, which then goes too.
    """
    with engine.connect() as connection:
        recipes = read_recipes(connection)
    removed = {bank: remove(engine, bank, on_removal) for bank in recipes if keep is not None and bank not in keep}
    for bank, recipe in recipes.items():
        if bank in removed:
            continue
        with engine.connect() as connection:
            keys, watermarks = read_keys(connection, bank), read_watermarks(connection, bank)
        with engine.connect() as connection:
            now = store_texts(connection, recipe.template)
        removed[bank] = remove_keys(
            engine, bank, sorted(keys.difference(recipe.keys(now.texts))), watermarks, on_removal
        )
        note_size(engine, bank, now.behaviors, now.distinct)
    return removed


def _texts(template: Template, catalogue: dict[str, Item], rows: Iterable[Sequence[Any]]) -> list[str]:
    return list(
        dict.fromkeys(behavior_text(template, action, value, catalogue.get(item)) for item, action, value in rows)
    )
