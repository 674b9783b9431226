"""Item and user files become catalogue rows: known columns by meaning, every other column as a text attribute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from sqlalchemy import Engine

from interest.errors import InputError
from interest.store.sql import item_row, upsert, user_row, writing
from interest.store.tables import items, users
from interest.types import Item, User
from streams.files.columns import as_text
from streams.files.mapping import ITEM_NAMES, USER_NAMES, find_columns
from streams.files.readers import TableFile

_SEPARATORS = ("|", ";", ",")


def load_items(engine: Engine, path: Path, column_map: Mapping[str, str]) -> int:
    """Insert or replace the file's items; return how many."""
    count = 0
    for batch in items_of(path, column_map):
        with writing(engine) as connection:
            upsert(connection, items, [item_row(item) for item in batch])
        count += len(batch)
    return count


def load_users(engine: Engine, path: Path, column_map: Mapping[str, str]) -> int:
    """Insert or replace the file's user profiles; return how many."""
    count = 0
    for batch in users_of(path, column_map):
        with writing(engine) as connection:
            upsert(connection, users, [user_row(user) for user in batch])
        count += len(batch)
    return count


def items_of(path: Path, column_map: Mapping[str, str]) -> Iterator[list[Item]]:
    """The file's items, a chunk at a time."""
    file = TableFile(path)
    fields = find_columns(path, file.columns, ITEM_NAMES, ("item_id",), column_map, lenient=("item_id",))
    for rows in _rows(file, fields["item_id"]):
        yield [_item(row, fields, file.lists) for row in rows]


def users_of(path: Path, column_map: Mapping[str, str]) -> Iterator[list[User]]:
    """The file's user profiles, a chunk at a time."""
    file = TableFile(path)
    key = find_columns(path, file.columns, USER_NAMES, ("user_id",), column_map, lenient=("user_id",))["user_id"]
    for rows in _rows(file, key):
        yield [User(user_id=row.pop(key), attributes=_attributes(row)) for row in rows]


def _rows(file: TableFile, key: str) -> Iterator[list[dict[str, Any]]]:
    """Chunks of rows as values by column; a row without its key, or unreadable, is an error: catalogues are small."""
    for chunk in file.chunks(size=1000):
        if chunk.broken:
            raise InputError(f"{file.path}, line {chunk.broken[0].line}: {chunk.broken[0].reason}")
        reasons: dict[int, str] = {}
        columns = dict(chunk.columns)
        for name, column in columns.items():
            if isinstance(column, pa.Array) and pa.types.is_list(column.type):
                columns[name] = column.to_pylist()
            elif not any(isinstance(value, list) for value in column):
                columns[name] = as_text(column, name, reasons, required=name == key)
        if reasons:
            row, reason = min(reasons.items())
            raise InputError(f"{file.path}, line {chunk.lines[row]}: {reason}; correct the line, or take it out")
        # the same key twice in one chunk would be one statement updating a row twice: the later line counts
        rows = {
            columns[key][at]: {name: column[at] for name, column in columns.items()} for at in range(len(chunk.lines))
        }
        if rows:
            yield list(rows.values())


def _item(row: dict[str, Any], fields: Mapping[str, str], lists: set[str]) -> Item:
    item_id = row.pop(fields["item_id"])
    title = row.pop(fields["title"], None) if "title" in fields else None
    categories: tuple[str, ...] = ()
    if "categories" in fields:
        categories = _list(row.pop(fields["categories"], None), blanks=fields["categories"] in lists)
    return Item(item_id=item_id, title=title or "", categories=categories, attributes=_attributes(row))


def _attributes(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in row.items() if isinstance(value, str) and value}


def _list(value: Any, *, blanks: bool) -> tuple[str, ...]:
    """A list as it is; text split at blanks (RecBole's token_seq), else at the first of | ; , that it has."""
    if isinstance(value, list):
        return tuple(str(part) for part in value if part not in (None, ""))
    if not value:
        return ()
    if blanks:
        return tuple(value.split())
    separator = next((sign for sign in _SEPARATORS if sign in value), "|")
    return tuple(part.strip() for part in value.split(separator) if part.strip())
