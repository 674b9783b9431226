"""Empty stores on a PostgreSQL server."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import create_engine, make_url, text

from streams.store.engine import open_store


class Databases:
    """Databases on a server, each beginning as the empty store does."""

    def __init__(self, server: str) -> None:
        self._server = make_url(server).set(drivername="postgresql+psycopg")
        self._admin = create_engine(self._server.render_as_string(hide_password=False), isolation_level="AUTOCOMMIT")
        self._empty = self.bare()
        open_store(self.url(self._empty)).dispose()

    def url(self, name: str) -> str:
        return self._server.set(database=name).render_as_string(hide_password=False)

    def made(self) -> str:
        return self._made(self._empty)

    def bare(self) -> str:
        """One without any table."""
        return self._made("template1")

    def drop(self, name: str) -> None:
        with self._admin.connect() as connection:
            connection.execute(text(f"drop database {name} with (force)"))

    def end(self) -> None:
        self.drop(self._empty)
        self._admin.dispose()

    def _made(self, like: str) -> str:
        name = f"t{uuid4().hex[:12]}"
        with self._admin.connect() as connection:
            connection.execute(text(f"create database {name} template {like}"))
        return name
