"""What a worker says of itself in its log: what went down and came back, and once a minute what it has done."""

from __future__ import annotations

import structlog

from streams.observability.health import Health
from streams.observability.metrics import Metrics

SAY_S = 60.0  # between two lines of progress; nothing done, nothing said
DONE = {
    "behaviours": "interestream_behaviors_total",
    "partitions": "interestream_partitions_closed_total",
    "interests": "interestream_interests_total",
    "representations": "interestream_representations_total",
    "dead_letters": "interestream_dead_letters_total",
}
log = structlog.get_logger("agent")


class Journal:
    """Remembers what was said, so that nothing is said twice."""

    def __init__(self) -> None:
        self._down: dict[str, str] = {}
        self._said: dict[str, int] = {}
        self._said_at = float("-inf")

    def write(self, health: Health, metrics: Metrics, now: float) -> None:
        """Call it every few seconds. `now` is of time.monotonic."""
        for part in health.down.keys() - self._down.keys():
            log.warning("down", part=part, why=health.down[part])
        for part in self._down.keys() - health.down.keys():
            log.info("up again", part=part)
        self._down = dict(health.down)
        if now - self._said_at < SAY_S:
            return
        done = {name: self._sum(metrics, sample) for name, sample in DONE.items()}
        fresh = {name: count - self._said.get(name, 0) for name, count in done.items()}
        if any(fresh.values()):
            left = int(self._sum(metrics, "interestream_lag"))
            log.info("progress", **{name: count for name, count in fresh.items() if count}, left=left)
        self._said, self._said_at = done, now

    def _sum(self, metrics: Metrics, sample: str) -> int:
        found = (one for family in metrics.registry.collect() for one in family.samples if one.name == sample)
        return int(sum(one.value for one in found))
