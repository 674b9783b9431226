"""What a language model stated about titles while it wrote an interest: its knowledge, kept apart from the text."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, and_, delete, or_, select

from interest.store.sql import insert_new
from interest.store.tables import item_statements
from interest.types import Interest, ItemStatement

AT_ONCE = 100  # interests of one statement


def write_statements(connection: Connection, interests: Sequence[Interest]) -> None:
    """Write the statements of interests that are being written, in the place of those that older texts left."""
    keys = item_statements.c
    for start in range(0, len(interests), AT_ONCE):
        page = interests[start : start + AT_ONCE]
        same = [
            and_(
                keys.user_id == one.user_id,
                keys.generation == one.generation,
                keys.index == one.index,
                keys.prompt_version == one.prompt_version,
            )
            for one in page
        ]
        connection.execute(delete(item_statements).where(or_(*same)))
        rows = [
            {
                "user_id": one.user_id,
                "generation": one.generation,
                "index": one.index,
                "prompt_version": one.prompt_version,
                "statements": msgspec.json.encode(one.statements).decode(),
            }
            for one in page
            if one.statements
        ]
        insert_new(connection, item_statements, rows)


def read_statements_of(
    connection: Connection, user_id: str, generation: int, index: int, prompt_version: str
) -> list[ItemStatement]:
    """What was stated with one partition's text; empty where nothing was."""
    keys = item_statements.c
    query = select(keys.statements).where(
        keys.user_id == user_id,
        keys.generation == generation,
        keys.index == index,
        keys.prompt_version == prompt_version,
    )
    stored = connection.scalar(query)
    return [] if stored is None else msgspec.json.decode(stored, type=list[ItemStatement])
