"""Says in the log how many behaviours were dropped as duplicates, with one example; once a minute at most."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import structlog

from interest.types import Behavior
from streams.ubsp.ingest import Folded

SAY_S = 60.0
log = structlog.get_logger()


class DuplicateLog:
    """Counts between two lines."""

    def __init__(self) -> None:
        self._count = self._names = 0
        self._example: Behavior | None = None
        self._said_at = -SAY_S

    def add(self, folded: Sequence[Folded], rule: str) -> None:
        """Count what a transaction dropped by `rule`, and say it if it is time.

        known_names: of the count, names that were known of their users already, which are dropped by any rule.
        """
        dropped = sum(one.duplicates for one in folded)
        self._count += dropped
        self._names += sum(one.names for one in folded)
        self._example = self._example or next((one.duplicate for one in folded if one.duplicate is not None), None)
        if not dropped or time.monotonic() - self._said_at < SAY_S:
            return
        told = {} if self._example is None else {"example": msgspec.to_builtins(self._example)}
        log.info("duplicates dropped", count=self._count, known_names=self._names, rule=rule, **told)
        self._count = self._names = 0
        self._example, self._said_at = None, time.monotonic()
