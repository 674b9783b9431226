"""Logs of a running agent: structured, one event a line, from our code and from the libraries alike."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

# what these say of their own lives is of no use to whoever runs a worker; their troubles reach the stages as errors,
# which say them once, where aiokafka repeats them ten times a second
QUIET = dict.fromkeys(("alembic", "faust", "httpx", "mode", "streams.worker.app"), logging.WARNING)
QUIET |= dict.fromkeys(("aiokafka", "kafka"), logging.CRITICAL)


def set_up_logs(form: str, **always: Any) -> None:
    """Send every log to stderr as "json" or "text"; `always` is said with each event (the worker's number)."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    structlog.contextvars.bind_contextvars(**always)
