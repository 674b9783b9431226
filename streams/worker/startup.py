"""A worker that starts before its servers waits for them, and says so; what is wrong for good is raised at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

import structlog
from sqlalchemy import Engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError

from interest.errors import StoreError
from interest.retry import retry_blocking
from streams.kafka.errors import is_retriable
from streams.kafka.provision import check_topics
from streams.settings.schema import KafkaSettings
from streams.store.engine import open_store

T = TypeVar("T")
log = structlog.get_logger()


def wait_for_topics(settings: KafkaSettings) -> None:
    """Return once a broker has said that the topics are as they must be. Raises KafkaError where they are not."""
    _wait_for(lambda: check_topics(settings), is_retriable, "kafka")


def wait_for_store(url: str, still_s: float) -> Engine:
    """The store's engine, once its server answers. Raises StoreError for a store that cannot be used.

    PostgreSQL ends a transaction that has stood still for `still_s`: its worker is frozen or cut off, and the rows that
    it has locked are those that the worker after it needs.
    """
    server = "://" in url and make_url(url).get_backend_name() != "sqlite"
    engine = _wait_for(lambda: open_store(url), lambda error: server and _away(error), "store")
    if engine.dialect.name == "postgresql":

        def limit(connection: DBAPIConnection, _record: object) -> None:
            with closing(connection.cursor()) as cursor:
                cursor.execute(f"set idle_in_transaction_session_timeout = {int(still_s * 1000)}")
            connection.commit()

        event.listen(engine, "connect", limit)
        engine.dispose()  # the connections that were made without it
    return engine


def _away(error: Exception) -> bool:
    return isinstance(error, StoreError) and isinstance(error.__cause__, OperationalError)


def _wait_for(attempt: Callable[[], T], retriable: Callable[[Exception], bool], part: str) -> T:
    def failed(error: Exception, wait_s: float) -> None:
        log.warning("waiting to start", part=part, error=" ".join(str(error).split()), after_s=wait_s)

    return retry_blocking(attempt, retriable=retriable, failed=failed)
