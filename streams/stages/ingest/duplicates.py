"""Says in the log how many behaviours were dropped as duplicates, with one example; once a minute at most."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import structlog

from streams.ubsp.ingest import Folded

SAY_S = 60.0
log = structlog.get_logger()


class DuplicateLog:
    """Counts between two lines."""

    def __init__(self) -> None:
        self._count = 0
        self._said_at = -SAY_S

    def add(self, folded: Sequence[Folded], rule: str) -> None:
        """Count what a transaction dropped by `rule`, and say it if it is time."""
        dropped = sum(one.duplicates for one in folded)
        self._count += dropped
        if not dropped or time.monotonic() - self._said_at < SAY_S:
            return
        example = next(one.duplicate for one in folded if one.duplicate is not None)
        log.info("duplicates dropped", count=self._count, rule=rule, example=msgspec.to_builtins(example))
        self._count, self._said_at = 0, time.monotonic()
