"""Whether a worker makes progress: what /ready says, and when a worker that is stuck must end. Pure: time is handed in.

Ready means: every part the worker needs answered when last asked, and every Kafka partition it has with work left has
moved within `patience_s`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class _Progress:
    done: int  # the position: the next offset to work on
    left: int
    since: float  # when `done` last moved, or the work last ran out


@dataclass(slots=True)
class Health:
    """What the stages of one worker report."""

    patience_s: float = 60.0
    down: dict[str, str] = field(default_factory=dict)  # part ("store", "kafka", "llm") -> what it said
    refused: str | None = None  # why the worker will not go on at all
    expected: frozenset[str] = frozenset()  # the worker's stages
    begun: set[str] = field(default_factory=set)  # stages that have their partitions, or know that they have none
    _progress: dict[tuple[str, str, int], _Progress] = field(default_factory=dict)

    @property
    def started(self) -> bool:
        """Every stage has begun."""
        return bool(self.begun) and self.begun >= self.expected

    def up(self, part: str) -> None:
        self.down.pop(part, None)

    def failed(self, part: str, why: str) -> None:
        self.down[part] = why

    def progressed(self, stage: str, topic: str, partition: int, done: int, left: int, now: float) -> None:
        """A partition stands at offset `done` with `left` messages to come."""
        key = (stage, topic, partition)
        before = self._progress.get(key)
        if before is None or done != before.done or left == 0 or before.left == 0:
            self._progress[key] = _Progress(done, left, now)
        else:
            before.left = left

    def unassigned(self, stage: str, topic: str, partition: int) -> None:
        """The partition went to another worker."""
        self._progress.pop((stage, topic, partition), None)

    def stuck_for(self, now: float) -> float:
        """Seconds for which the slowest partition with work left has not moved."""
        return max((now - one.since for one in self._progress.values() if one.left), default=0.0)

    def reasons_not_ready(self, now: float) -> list[str]:
        """The reasons for which the worker is not ready; empty: it is."""
        reasons = [f"{part} is down: {why}" for part, why in sorted(self.down.items())]
        if self.refused:
            reasons.append(self.refused)
        if not self.started:
            waiting = ", ".join(sorted(self.expected - self.begun)) or "the stages"
            reasons.append(f"starting: {waiting} not given partitions yet")
        for (stage, topic, partition), one in sorted(self._progress.items()):
            if one.left and now - one.since > self.patience_s:
                reasons.append(
                    f"{stage} stands at offset {one.done} of {topic}[{partition}] for {now - one.since:.0f} s "
                    f"with {one.left:,} messages to come"
                )
        return reasons
