"""How long a producer bears a Kafka that does not answer: `--timeout` of `replay --kafka`. Pure but for its clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from streams.kafka.clients import KafkaError

TIMEOUT_S = 60.0


@dataclass(kw_only=True, slots=True)
class Outage:
    """Begins with the first failure and ends with the next answer."""

    brokers: str
    timeout_s: float = TIMEOUT_S
    clock: Callable[[], float] = time.monotonic
    _began: float | None = field(default=None, init=False)

    def failed(self) -> None:
        """Kafka did not answer, or not yet. Raises KafkaError once it has been away for longer than the time-out."""
        now = self.clock()
        if self._began is None:
            self._began = now
        elif now - self._began >= self.timeout_s:
            raise KafkaError(
                f"Kafka at {self.brokers} has not answered for {now - self._began:.0f} s. What was acknowledged stays "
                "on the topic: the same command goes on from there once Kafka is back. --timeout SECONDS waits longer"
            )

    def over(self) -> None:
        """Kafka has answered."""
        self._began = None
