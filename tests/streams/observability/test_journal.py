"""A worker's log says what changed, once."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from streams.observability import journal
from streams.observability.health import Health
from streams.observability.journal import Journal
from streams.observability.metrics import Metrics


def test_down_and_up_are_said_once_and_progress_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    import structlog

    monkeypatch.setattr(journal, "log", structlog.get_logger("agent"))  # one that no earlier set-up has fixed
    health, metrics, one = Health(), Metrics(), Journal()
    with capture_logs() as said:
        one.write(health, metrics, 0.0)
        health.failed("llm", "answers 500")
        one.write(health, metrics, 5.0)
        one.write(health, metrics, 10.0)
        health.up("llm")
        metrics.behaviors.labels("accepted").inc(7)
        metrics.lag.labels("ingest", "behaviors", "0").set(3)
        one.write(health, metrics, 15.0)
        one.write(health, metrics, 61.0)
        one.write(health, metrics, 122.0)
    assert [(line["event"], line.get("part")) for line in said] == [
        ("down", "llm"),
        ("up again", "llm"),
        ("progress", None),
    ]
    assert (said[-1]["behaviours"], said[-1]["left"]) == (7, 3)
