"""What the ingest stage makes of an error of its own: go on at once, go on after a while, or end.

Kafka's troubles are its consumer's, the announcer's and the dead letters'; here are those of the store, and of a
partition that went away in the middle.
"""

from __future__ import annotations

import structlog
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from interest.retry import BACKOFF
from streams.kafka.clients import KafkaError
from streams.kafka.errors import RefusedError, is_client_error
from streams.stages.retry import RetryPolicy
from streams.ubsp.bulk_insert import refused_content
from streams.ubsp.ingest import FencedError

CONFLICTS = 3  # in a row, before they are reported: one or two are how another worker's write is found out
SOON_S = 0.2  # a partition was taken away while it was asked about
log = structlog.get_logger()


class ErrorPolicy:
    """Counts what goes wrong in a row. After `wait_after` the stored positions are read again, whatever it was."""

    def __init__(self, retry: RetryPolicy) -> None:
        self._retry = retry
        self._failures = self._conflicts = 0

    def written(self) -> None:
        """A transaction went well."""
        self._failures = self._conflicts = 0

    def wait_after(self, error: Exception) -> float:
        """How long to wait (s) before going on. Raises the error if waiting is of no use."""
        from aiokafka.errors import IllegalStateError

        part = "store"
        if isinstance(error, RefusedError):
            raise error
        if isinstance(error, FencedError):
            log.warning("fenced: another worker has read on", reason=str(error))
            return 0.0
        if isinstance(error, IllegalStateError):
            return SOON_S
        if refused_content(error):
            return 0.0
        if isinstance(error, IntegrityError):  # another worker wrote the same users: a sweep, or just before it was out
            self._conflicts += 1
            if self._conflicts < CONFLICTS:
                return 0.0
        elif isinstance(error, KafkaError | OSError) or is_client_error(error):
            part = "kafka"
        elif not isinstance(error, SQLAlchemyError):
            raise error
        self._failures += 1
        wait_s = BACKOFF.delay_s(self._failures)
        self._retry.report(part, "reads the stored positions again", error, wait_s)
        return wait_s
