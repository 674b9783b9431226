"""What the tests of faults share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from streams.settings.schema import KafkaSettings
from tests.support.fault_site import Site
from tests.support.own_postgres import Postgres
from tests.support.servers import Run


@pytest.fixture
def site(kafka: KafkaSettings, url: str, tmp_path: Path) -> Iterator[Site]:
    """An installation on the shared broker, its topics made."""
    site = Site(msgspec.structs.replace(kafka, partitions=4, session_timeout_s=2.0), url, tmp_path)
    site.command("topics", "create")
    yield site
    site.close()


@pytest.fixture
def own_postgres(run: Run) -> Iterator[Postgres]:
    """A PostgreSQL server that the test may kill."""
    server = Postgres(run.own_folder("postgres"))
    yield server
    server.stop()
