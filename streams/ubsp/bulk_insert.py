"""Appends behaviours at the driver's own speed: SQLAlchemy's lists of dicts cost 11 to 69 % of the ingest rate."""

from __future__ import annotations

import sqlite3
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError

COLUMNS = ("user_id", "seq", "item_id", "action", "at", "value", "scene", "event_id")
_TYPES = ("text", "int4", "text", "text", "float8", "float8", "text", "text")  # PostgreSQL's, for a binary copy
_INSERT = f"insert into behaviors ({', '.join(COLUMNS)}) values "
_ROW = f"({', '.join('?' * len(COLUMNS))})"
_ROWS_A_STATEMENT = 4000  # SQLite binds 32,766 values at most; a long statement lets other threads run meanwhile

_CONTENT = {  # data exception, program limit, not null, check, raised by a trigger
    "22", "54", "23502", "23514", "P0001",
    "SQLITE_CONSTRAINT_NOTNULL", "SQLITE_CONSTRAINT_CHECK", "SQLITE_CONSTRAINT_TRIGGER", "SQLITE_TOOBIG",
}  # fmt: skip


def append_behaviors(connection: Connection, values: list[Any]) -> None:
    """Append rows, given as one flat list of values in the order of COLUMNS, inside the caller's transaction."""
    if not values:
        return
    if connection.dialect.name == "postgresql":
        _copy(connection, values)
        return
    values = _grouped(values)
    cursor = connection.connection.cursor()
    step = _ROWS_A_STATEMENT * len(COLUMNS)
    try:
        for start in range(0, len(values), step):
            part = values[start : start + step]
            cursor.execute(_INSERT + ", ".join([_ROW] * (len(part) // len(COLUMNS))), part)
    except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
        raise _wrapped(connection, error) from error
    finally:
        cursor.close()


def _grouped(values: list[Any]) -> list[Any]:
    """Rows of many interleaved users, brought together by user: neighbours in the tree, fewer pages touched twice."""
    width = len(COLUMNS)
    users = values[::width]
    if len(users) < 2 or len(set(users)) * 4 < len(users):  # the log has them together already, as far as it pays
        return values
    order = itemgetter(*sorted(range(len(users)), key=users.__getitem__))  # stable: a user's rows stay in order
    out: list[Any] = [None] * len(values)
    for column in range(width):
        out[column::width] = order(values[column::width])
    return out


def _copy(connection: Connection, values: list[Any]) -> None:
    import psycopg

    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    statement = f"copy behaviors ({', '.join(COLUMNS)}) from stdin (format binary)"
    try:
        with driver.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            copy.set_types(_TYPES)
            for row in zip(*[iter(values)] * len(COLUMNS), strict=True):
                copy.write_row(row)
    except (psycopg.Error, UnicodeEncodeError) as error:
        raise _wrapped(connection, error) from error


def _wrapped(connection: Connection, error: Exception) -> BaseException:
    """The error as SQLAlchemy would have wrapped it, without the values."""
    base = connection.dialect.loaded_dbapi.Error
    if not isinstance(error, base):  # the driver could not even encode a value
        return DataError(_INSERT, None, error)
    return DBAPIError.instance(_INSERT, None, error, base, hide_parameters=True, dialect=connection.dialect)


def refused_content(error: BaseException) -> str | None:
    """Why the database refuses these rows and always will, if that is what the error says: a value out of range, text
    it cannot hold, an index entry too large, a constraint or a trigger of the operator's own."""
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or ""  # PostgreSQL's; SQLite's is a name
        said = state in _CONTENT or state[:2] in _CONTENT or getattr(error.orig, "sqlite_errorname", None) in _CONTENT
        if said or isinstance(error, DataError):
            return str(error.orig).strip().splitlines()[0]
    return None
