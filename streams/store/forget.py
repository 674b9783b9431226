"""Forgetting a user: every row of every table, then the bytes themselves."""

from __future__ import annotations

import sqlite3

from sqlalchemy import Engine, delete

from fusion.adaptation.register import count_forgotten
from interest.errors import StoreError
from interest.store import counters
from interest.store.sql import writing
from streams.store.users import check_user, user_tables


def forget(engine: Engine, user_id: str) -> dict[str, int]:
    """Delete a user's rows from every table with a user_id, in one transaction; return how many by table.

    Then make sure that nothing can be read off the disk: `erase`. Raises InputError where no table knows the user.
    Nothing is written about whom was forgotten; an adapted model that learnt from the user counts one more. The counts
    in `offsets` stay: a log that was replayed is consumed, so replaying it again does not bring the user back; a log
    under another name would.
    """
    with writing(engine) as connection:
        # waits for the ingest transactions that run; the ones after them drop what they remember of the user
        counters.increment(connection, counters.FORGETS)
        check_user(connection, user_id)
        count_forgotten(connection, user_id)
        deleted = {
            table.name: connection.execute(delete(table).where(table.c.user_id == user_id)).rowcount
            for table in user_tables()
        }
    erase(engine)
    return deleted


def erase(engine: Engine) -> None:
    """Leave nothing of deleted rows in the store's files.

    SQLite keeps deleted bytes in free pages, in the slack of pages that were once split, and in the write-ahead log:
    VACUUM writes the file anew (in the room of a second copy of it), and a truncating checkpoint empties the log.
    PostgreSQL's dead rows go by VACUUM; its write-ahead log by its own archive's rules.
    """
    if engine.dialect.name == "postgresql":
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            for table in user_tables():
                connection.exec_driver_sql(f'vacuum "{table.name}"')
        return
    pooled = engine.raw_connection()  # outside any transaction, where alone SQLite lets VACUUM run
    try:
        cursor = pooled.cursor()
        cursor.execute("vacuum")
        cursor.execute("pragma wal_checkpoint(truncate)")
        busy, _, _ = cursor.fetchone() or (0, 0, 0)
    except sqlite3.OperationalError as error:
        raise _bytes_left(str(error)) from error
    finally:
        pooled.close()
    if busy:
        raise _bytes_left("another process is reading the store")


def _bytes_left(cause: str) -> StoreError:
    return StoreError(
        f"the rows are deleted, but their bytes are still in the store's file: {cause}. "
        "Close what else uses the store, make room for a second copy of it, and run `interestream forget --erase`"
    )
