"""What the ingest stage makes of an error: go on at once, go on after a while, join the group anew, or end."""

from __future__ import annotations

import structlog
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from streams.kafka.clients import KafkaError
from streams.stages.ingest.offsets import RefusedError
from streams.stages.retry import BACKOFF_MAX_S, BACKOFF_S
from streams.stages.stage import Context
from streams.ubsp.bulk_insert import refused_content
from streams.ubsp.ingest import FencedError

CONFLICTS = 3  # in a row, before they are reported: one or two are how another worker's write is found out
FAILURES = 3  # polls that fail in a row before the consumer is made anew: aiokafka's own tasks can end
AGAIN_S = 2.0  # a broker that has just started may not know its topics yet: it is asked twice
SOON_S = 0.2  # a partition was taken away while it was asked about
log = structlog.get_logger()


class ErrorPolicy:
    """Counts what goes wrong in a row. After `judge` the stored positions are read again, whatever it was."""

    def __init__(self, context: Context, stage: str) -> None:
        self._context, self._stage = context, stage
        self._failures = self._refusals = self._conflicts = 0
        self._wait = BACKOFF_S

    def read(self) -> None:
        """A poll went well."""
        self._failures = 0

    def begun(self) -> None:
        """The topics are as they were."""
        self._refusals = 0

    def written(self) -> None:
        """A transaction went well."""
        self._conflicts, self._wait = 0, BACKOFF_S

    def judge(self, error: Exception) -> tuple[float, bool]:
        """How long to wait (s), and whether to join the group anew. Raises the error if waiting is of no use."""
        from aiokafka.errors import IllegalStateError
        from aiokafka.errors import KafkaError as ClientError

        cause, anew, part = type(error).__name__, False, "store"
        if isinstance(error, RefusedError):
            self._refusals += 1
            if self._refusals > 1:
                raise error
            return AGAIN_S, False
        if isinstance(error, FencedError):
            self._context.metrics.fenced.inc()
            log.warning("fenced: another worker has read on", reason=str(error))
            return 0.0, False
        if isinstance(error, IllegalStateError):
            return SOON_S, False
        if refused_content(error):
            return 0.0, False
        if isinstance(error, IntegrityError):  # another worker wrote the same users: a sweep, or just before it was out
            self._conflicts += 1
            if self._conflicts < CONFLICTS:
                return 0.0, False
        elif isinstance(error, KafkaError | ClientError | OSError):
            part = "kafka"
            self._failures += 1
            anew = self._failures >= FAILURES
            if anew:
                self._failures = 0
        elif not isinstance(error, SQLAlchemyError):
            raise error
        self._context.metrics.retries.labels(self._stage, cause).inc()
        self._context.health.failed(part, f"ingest reads the stored positions again: {cause} {str(error)[:500]}")
        log.warning("trying again", part=part, error=f"{cause}: {str(error)[:500]}", after_s=self._wait)
        wait, self._wait = self._wait, min(self._wait * 2, BACKOFF_MAX_S)
        return wait, anew
