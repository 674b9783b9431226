"""The answer cache and the usage counters: what was asked is not asked again, and what it cost is counted.

A reply is stored under everything that can change it (model, prompt version, the request with its schema and
parameters) as soon as the requests in flight with it are answered, so that a crash costs at most those.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, select

from interest.llm import Complete, Reply, Request
from interest.sql import insert_new, upsert, writing
from interest.tables import answers, usage

WRITE_EVERY = 16  # answers a transaction; one batch of the in-process model


def answer_key(model: str, prompt_version: str, request: Request) -> str:
    """The SHA-256 of the model's id, the prompt version and the whole request."""
    return hashlib.sha256(msgspec.json.encode((model, prompt_version, request), order="deterministic")).hexdigest()


@dataclass(slots=True)
class Usage:
    """What calls of one kind (summary, shift) cost. Seconds during which any were in flight."""

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            cached=self.cached + other.cached,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            seconds=self.seconds + other.seconds,
        )


class Answers:
    """A `Complete` with a memory: `ask` looks the answer up before it calls, and keeps what the model said."""

    def __init__(self, engine: Engine, complete: Complete, *, model: str, prompt_version: str) -> None:
        self._engine = engine
        self._complete = complete
        self._model = model
        self._version = prompt_version
        self._unsaved: dict[str, dict[str, Any]] = {}
        self._uncounted: dict[str, Usage] = {}
        self._in_flight = 0
        self._since = 0.0
        self.spent: dict[str, Usage] = {}  # by kind, since this object was made

    async def ask(self, request: Request, *, user_id: str, kind: str) -> Reply:
        key = answer_key(self._model, self._version, request)
        if (known := self._find(key)) is not None:
            self._count(kind, Usage(cached=1))
            return known
        self._tick(kind, 1)
        try:
            reply = await self._complete(request)
        finally:
            self._tick(kind, -1)
        tokens = Usage(calls=1, prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens)
        self._count(kind, tokens)
        self._unsaved[key] = {"key": key, "user_id": user_id, "reply": msgspec.json.encode(reply)}
        if self._in_flight == 0 or len(self._unsaved) >= WRITE_EVERY:
            self.flush()
        return reply

    def flush(self) -> None:
        """Write the answers and counters that are not stored yet, in one transaction."""
        if self._unsaved or self._uncounted:
            with writing(self._engine) as connection:
                insert_new(connection, answers, list(self._unsaved.values()))
                add_usage(connection, self._model, self._version, self._uncounted)
            self._unsaved.clear()
            self._uncounted.clear()

    def _find(self, key: str) -> Reply | None:
        if key in self._unsaved:
            return msgspec.json.decode(self._unsaved[key]["reply"], type=Reply)
        with self._engine.connect() as connection:
            stored = connection.execute(select(answers.c.reply).where(answers.c.key == key)).scalar()
        return msgspec.json.decode(stored, type=Reply) if stored is not None else None

    def _count(self, kind: str, more: Usage) -> None:
        for counters in (self._uncounted, self.spent):
            counters[kind] = counters.get(kind, Usage()) + more

    def _tick(self, kind: str, change: int) -> None:
        """Count the time since the last change as worked if anything was in flight."""
        now = time.monotonic()
        if self._in_flight:
            self._count(kind, Usage(seconds=now - self._since))
        self._since = now
        self._in_flight += change


def add_usage(connection: Connection, model: str, prompt_version: str, spent: dict[str, Usage]) -> None:
    """Add to the stored counters of a model and prompt version."""
    before = read_usage(connection, model, prompt_version)
    rows = [
        {"model": model, "prompt_version": prompt_version, "kind": kind, **asdict(before.get(kind, Usage()) + more)}
        for kind, more in sorted(spent.items())
    ]
    upsert(connection, usage, rows)


def read_usage(connection: Connection, model: str, prompt_version: str) -> dict[str, Usage]:
    """The stored counters of a model and prompt version, by kind."""
    query = select(usage).where(usage.c.model == model, usage.c.prompt_version == prompt_version)
    return {
        row["kind"]: Usage(
            calls=row["calls"],
            cached=row["cached"],
            prompt_tokens=row["prompt_tokens"],
            completion_tokens=row["completion_tokens"],
            seconds=row["seconds"],
        )
        for row in connection.execute(query).mappings()
    }
