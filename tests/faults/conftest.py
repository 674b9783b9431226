"""What the tests of faults share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from deploy.kafka.node import Node
from streams.settings.schema import KafkaSettings
from tests.support.fault_site import Postgres, Site


@pytest.fixture
def site(kafka: KafkaSettings, url: str, tmp_path: Path) -> Iterator[Site]:
    """An installation on the shared broker, its topics made."""
    site = Site(msgspec.structs.replace(kafka, partitions=4, session_timeout_s=2.0), url, tmp_path)
    site.command("topics", "create")
    yield site
    site.close()


@pytest.fixture
def own_node() -> Iterator[Node]:
    """A broker that the test may kill."""
    with tempfile.TemporaryDirectory(prefix="interestream-kafka-", ignore_cleanup_errors=True) as folder:
        node = Node(Path(folder))
        node.start()
        yield node
        node.kill()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that the test may kill."""
    with tempfile.TemporaryDirectory(prefix="interestream-pg-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder))
        yield server
        server.stop()
