"""Reads what a language model says of items: its own knowledge, kept apart from the catalogue."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlalchemy import Connection, func, select

from interest.store.sql import KEYS_AT_ONCE
from interest.store.tables import item_descriptions


class ItemDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What a model says of one item. Nobody has checked it."""

    text: str
    model: str
    prompt_version: str


def read_descriptions(connection: Connection, item_ids: Iterable[str]) -> dict[str, ItemDescription]:
    """By item id, of those items that have one."""
    wanted = list(dict.fromkeys(item_ids))
    table = item_descriptions.c
    query = select(table.item_id, table.text, table.model, table.prompt_version).where(table.text != "")
    found: dict[str, ItemDescription] = {}
    for start in range(0, len(wanted), KEYS_AT_ONCE):
        page = query.where(table.item_id.in_(wanted[start : start + KEYS_AT_ONCE]))
        for row in connection.execute(page):
            found[row.item_id] = ItemDescription(text=row.text, model=row.model, prompt_version=row.prompt_version)
    return found


def count_descriptions(connection: Connection) -> dict[tuple[str, str], int]:
    """How many items ended how, by model and outcome."""
    table = item_descriptions.c
    query = select(table.model, table.outcome, func.count()).group_by(table.model, table.outcome)
    return {(row[0], row[1]): row[2] for row in connection.execute(query.order_by(table.model, table.outcome))}
