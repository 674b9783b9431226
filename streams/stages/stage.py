"""What a stage of the stream agent is: something that runs until it is told to stop, and then finishes what it has."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Engine

from streams.kafka.topics import Topics
from streams.observability.health import Health
from streams.observability.metrics import Metrics
from streams.settings.schema import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """What every stage is made with; built once, in streams/worker/app.py."""

    settings: Settings
    engine: Engine
    metrics: Metrics
    health: Health

    @property
    def topics(self) -> Topics:
        return Topics(self.settings.kafka.prefix)


class Stage(Protocol):
    """One of ingest, interest, fusion. Knows nothing of Faust or of processes."""

    name: str

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then read nothing more, finish what is in flight within agent.drain_s, and return.

        Trouble that may pass (a broker, the store, the LLM not there) is waited out with back-off and reported to
        `context.health`; what cannot pass raises an InterestreamError that names the remedy.
        """
        ...
