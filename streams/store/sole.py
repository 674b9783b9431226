"""The right to be the only process of its kind that works on a store, across machines where the store is a server.

It is for work that two processes would do twice. The system, or the database, gives it free however its holder ends.
"""

from __future__ import annotations

import fcntl
import os
import zlib

from sqlalchemy import Connection, Engine
from sqlalchemy import text as sql
from sqlalchemy.exc import DBAPIError

from interest.errors import StoreError


class Sole:
    """Ask `held` before each piece of work: a connection that broke has lost the right, which is then taken again."""

    def __init__(self, engine: Engine, kind: str) -> None:
        self._engine, self._kind = engine, kind
        self._file: int | None = None
        self._connection: Connection | None = None

    def held(self) -> bool:
        """Whether it is this process's, taken now where it is free.

        Raises what SQLAlchemy does without a store, StoreError for a lock's file that cannot be opened.
        """
        if self._engine.dialect.name == "postgresql":
            return self._held_in_database()
        database = self._engine.url.database
        if self._file is not None or not database or database == ":memory:":
            return True
        return self._lock(f"{os.path.realpath(database)}-{self._kind}")  # by whatever link or path it was named

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        if self._connection is not None:
            self._connection.invalidate()  # the session ends, and its locks with it
            self._connection.close()
        self._file = self._connection = None

    def _lock(self, path: str) -> bool:
        """A lock on an empty file beside the store's."""
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"{path}, by which one process at a time works, cannot be opened ({error.strerror}): grant it, or "
                "remove it where no process works"
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file
        return True

    def _held_in_database(self) -> bool:
        if self._connection is not None:
            try:
                self._connection.execute(sql("select 1"))
            except DBAPIError:
                self.close()
            else:
                return True
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        mine = False
        try:
            number = zlib.crc32(f"interestream {self._kind}".encode())
            mine = bool(connection.execute(sql("select pg_try_advisory_lock(:number)"), {"number": number}).scalar())
        finally:
            if mine:
                self._connection = connection  # the lock is the session's
            else:
                connection.close()
        return mine
