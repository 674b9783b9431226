"""Item and user files become catalogue rows: known columns by meaning, every other column as a text attribute.

A bad row is set aside as a log's is; a column that holds no text, such as nested objects, is set aside as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from sqlalchemy import Engine

from interest.errors import InputError
from interest.store.sql import item_row, upsert, user_row, writing
from interest.store.tables import items, users
from interest.types import Item, User
from streams.files.lists import as_list
from streams.files.mapping import ITEM_NAMES, USER_NAMES, find_columns
from streams.files.readers import TableFile
from streams.files.rejects import RejectedRow, RejectWriter
from streams.files.rows import limit_ids
from streams.files.table import Chunk
from streams.files.text import Column, Reasons, as_text, is_missing
from streams.files.understood import ColumnUse, Understood

_CHUNK = 1_000  # rows of one transaction


class CatalogueFile:
    """A file of items or of user profiles whose columns have been found; Ctrl-C or a bad row costs that row only."""

    names: Mapping[str, Sequence[str]]
    key: str
    kind: str

    def __init__(self, file: TableFile | Path, column_map: Mapping[str, str]) -> None:
        self.file = file if isinstance(file, TableFile) else TableFile(file)
        self.fields = find_columns(self.path, self.file.columns, self.names, (self.key,), column_map, file=self.kind)
        self.nested: dict[str, None] = {}  # columns set aside so far

    @property
    def path(self) -> Path:
        return self.file.path

    def rows(self, rejects: RejectWriter) -> Iterator[list[dict[str, Any]]]:
        """Chunks of usable rows, each a value by column; the later of two rows with one key in a chunk counts."""
        usable = 0
        for chunk in self.file.chunks(size=_CHUNK):
            rows, rejected = self._rows(chunk)
            rejects.add(rejected)
            usable += len(rows)
            if rows:
                yield list(rows.values())
        if not usable:
            raise no_usable_row(self.path, rejects)

    def _rows(self, chunk: Chunk) -> tuple[dict[str, dict[str, Any]], list[RejectedRow]]:
        reasons: Reasons = {}
        key, file = self.fields[self.key], chunk.file or self.path.name
        columns: dict[str, list[Any]] = {}
        for name, column in chunk.columns.items():
            if name == key:
                columns[name] = as_text(column, name, reasons, required=True)
                limit_ids(columns[name], name, reasons)
            elif name == self.fields.get("categories"):
                columns[name] = column.to_pylist() if isinstance(column, pa.Array) else list(column)
            else:
                columns[name] = self._texts(column, name, reasons)
        rejected = [RejectedRow(file=file, line=one.line, reason=one.reason, row=one.raw) for one in chunk.broken]
        rejected += [
            RejectedRow(file=file, line=chunk.lines[row], reason=reason, row=chunk.row(row))
            for row, reason in reasons.items()
        ]
        rejected.sort(key=lambda one: one.line)
        good = (row for row in range(len(chunk.lines)) if row not in reasons)
        return {columns[key][row]: {name: cells[row] for name, cells in columns.items()} for row in good}, rejected

    def _texts(self, column: Column, name: str, reasons: Reasons) -> list[str | None]:
        """A column as text: lists of plain values joined, booleans as true and false, nested objects left out."""
        values = column.to_pylist() if isinstance(column, pa.Array) and not _is_flat(column.type) else column
        if not isinstance(values, pa.Array):
            values = [self._rendered(value, name) for value in values]
        return as_text(values, name, reasons, required=False, numbers=name != self.fields.get("title"))

    def _rendered(self, value: Any, name: str) -> Any:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list | tuple):
            if any(isinstance(part, dict | list | tuple) for part in value):
                self.nested[name] = None
                return None
            return ", ".join(as_list([part for part in value if not isinstance(part, bytes)]))
        if isinstance(value, dict | bytes):
            self.nested[name] = None
            return None
        return value

    def understood(self) -> Understood:
        """The columns as they are taken, each with a value of the first usable row."""
        read: dict[str, str] = {}
        taken: dict[str, str] = {}
        for chunk in self.file.chunks(size=_CHUNK):
            rows, rejected = self._rows(chunk)
            if rows:
                bad = {one.line for one in rejected}
                place = next(row for row, line in enumerate(chunk.lines) if line not in bad)
                read = {name: "" if is_missing(cell) else str(cell) for name, cell in chunk.row(place).items()}
                taken = {name: _shown(value) for name, value in next(iter(rows.values())).items()}
                break
        fields = {column: field for field, column in self.fields.items()}
        if "categories" in self.fields:
            column = self.fields["categories"]
            taken[column] = ", ".join(as_list(read.get(column, ""), blanks=column in self.file.lists))
        uses = [
            ColumnUse(
                name,
                "" if name in self.nested else fields.get(name, "attribute"),
                read.get(name, ""),
                taken.get(name, ""),
            )
            for name in self.file.columns
        ]
        return Understood(self.path.name, uses, self._notes())

    def _notes(self) -> list[str]:
        lacks = [field for field in self.names if field not in self.fields]
        notes = [f"no column holds {field} (--map {self.kind}.{field}=COLUMN)" for field in lacks]
        return notes + [f"{name}: nested objects or bytes, which are no text" for name in self.nested]


class ItemFile(CatalogueFile):
    """The catalogue: ids, titles, categories; every other column is an attribute."""

    names, key, kind = ITEM_NAMES, "item_id", "items"

    def items(self, rejects: RejectWriter) -> Iterator[list[Item]]:
        """The file's items, a chunk at a time."""
        for rows in self.rows(rejects):
            yield [self._item(row) for row in rows]

    def _item(self, row: dict[str, Any]) -> Item:
        item_id = row.pop(self.fields["item_id"])
        title = row.pop(self.fields["title"], None) if "title" in self.fields else None
        categories: tuple[str, ...] = ()
        if "categories" in self.fields:
            column = self.fields["categories"]
            categories = as_list(row.pop(column, None), blanks=column in self.file.lists)
        return Item(item_id=item_id, title=title or "", categories=categories, attributes=_attributes(row))


class UserFile(CatalogueFile):
    """User profiles: every column but the id is an attribute."""

    names, key, kind = USER_NAMES, "user_id", "users"

    def users(self, rejects: RejectWriter) -> Iterator[list[User]]:
        """The file's profiles, a chunk at a time."""
        for rows in self.rows(rejects):
            yield [User(user_id=row.pop(self.fields["user_id"]), attributes=_attributes(row)) for row in rows]


def load_items(engine: Engine, file: ItemFile, rejects: RejectWriter | None = None) -> int:
    """Insert or replace the file's items; return how many."""
    count = 0
    for batch in file.items(rejects or RejectWriter(file.path)):
        with writing(engine) as connection:
            upsert(connection, items, [item_row(item) for item in batch])
        count += len(batch)
    return count


def load_users(engine: Engine, file: UserFile, rejects: RejectWriter | None = None) -> int:
    """Insert or replace the file's user profiles; return how many."""
    count = 0
    for batch in file.users(rejects or RejectWriter(file.path)):
        with writing(engine) as connection:
            upsert(connection, users, [user_row(user) for user in batch])
        count += len(batch)
    return count


def no_usable_row(path: Path, rejects: RejectWriter) -> InputError:
    """A file of which nothing could be used: that is an error, with the first reason."""
    if rejects.first is None:
        return InputError(f"{path} has no rows")
    first = rejects.first
    return InputError(
        f"{path}: no row is usable. {first.file}, line {first.line}: {first.reason}. All {rejects.count:,} rows, each "
        f"with its reason: {rejects.path}"
    )


def _attributes(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in row.items() if isinstance(value, str) and value}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else "" if is_missing(value) else msgspec.json.encode(value).decode()


def _is_flat(kind: pa.DataType) -> bool:
    """Whether as_text takes the column as it is."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
    )
