"""Answer cache and usage counters of the language model.

A reply is stored under everything that can change it (model, prompt version, the request with its schema and
parameters) as soon as the requests in flight with it are answered, so that a crash costs at most those.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from dataclasses import asdict, dataclass

import msgspec
from sqlalchemy import Connection, Engine, select

from interest.llm.protocol import Complete, Reply, Request
from interest.store import counters
from interest.store.sql import add_up, insert_new, writing
from interest.store.tables import answers, usage

OF_ITEMS = ""  # the user id of answers about items, which are of no user: no user's id is empty
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

    def __sub__(self, other: Usage) -> Usage:
        return self + Usage(**{name: -value for name, value in asdict(other).items()})

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            cached=self.cached + other.cached,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            seconds=self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said of a user, or of an item."""

    user_id: str
    reply: bytes
    forgets: int | None  # users forgotten before what it is about was read; None: not known


@dataclass(frozen=True, slots=True)
class Unwritten:
    """What `Answers.write` is to store; `Answers.written` is told once it is."""

    rows: dict[str, Answer]  # by key
    spent: dict[str, Usage]  # by kind

    def __bool__(self) -> bool:
        return bool(self.rows or self.spent)


class Answers:
    """Cached calls to a `Complete`: `ask` looks the answer up before it calls, and stores what the model said.

    Args:
        write_every: answers after which `ask` itself stores them, and whenever nothing is in flight. None: never; the
            caller stores `unwritten` in its own transactions.
    """

    def __init__(
        self,
        engine: Engine,
        complete: Complete,
        *,
        model: str,
        prompt_version: str,
        write_every: int | None = WRITE_EVERY,
    ) -> None:
        self._engine = engine
        self._complete = complete
        self._model = model
        self._version = prompt_version
        self._write_every = write_every
        self._unsaved: dict[str, Answer] = {}
        self._uncounted: dict[str, Usage] = {}
        self._lookups = Lookups(engine)
        self._ahead: Counter[str] = Counter()  # calls made before their turn, by key, until that comes
        self._in_flight = 0
        self._since = 0.0
        self.spent: dict[str, Usage] = {}  # by kind, since this object was made

    async def ask(
        self,
        request: Request,
        *,
        user_id: str,
        kind: str,
        forgets: int | None = None,
        complete: Complete | None = None,
        ahead: bool = False,
    ) -> Reply:
        """The stored answer, or the model's. `complete` is the way to the model, where it is not the usual one.

        ahead: the answer will be asked for once more, when its turn comes: that counts as the call it was.
        forgets: users forgotten before what the request tells was read; an answer about a user is stored only while
            this is their number.
        """
        key = answer_key(self._model, self._version, request)
        if (known := await self._find(key)) is not None:
            if not ahead and self._ahead[key] > 0:
                self._ahead[key] -= 1
            elif not ahead:
                self._count(kind, Usage(cached=1))
            return known
        self._tick(kind, 1)
        try:
            reply = await (complete or self._complete)(request)
        finally:
            self._tick(kind, -1)
        tokens = Usage(calls=1, prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens)
        self._count(kind, tokens)
        if ahead:
            self._ahead[key] += 1
        self._unsaved[key] = Answer(user_id, msgspec.json.encode(reply), forgets)
        if self._write_every and (self._in_flight == 0 or len(self._unsaved) >= self._write_every):
            self.flush()
        return reply

    def flush(self) -> None:
        """Write the answers and counters that are not stored yet, in one transaction."""
        if unwritten := self.unwritten():
            with writing(self._engine) as connection:
                self.write(connection, unwritten)
            self.written(unwritten)

    def unwritten(self) -> Unwritten:
        """What is not stored yet."""
        return Unwritten(dict(self._unsaved), dict(self._uncounted))

    def write(self, connection: Connection, unwritten: Unwritten) -> None:
        """Store it in the caller's transaction.

        Answers from before a user was forgotten are left out, whoever they are about: that user may have come back,
        and an answer that is not kept costs a call only where a run breaks off.
        """
        forgets = counters.read_locked(connection, counters.FORGETS)
        rows = [
            {"key": key, "user_id": answer.user_id, "reply": answer.reply}
            for key, answer in unwritten.rows.items()
            if answer.user_id == OF_ITEMS or answer.forgets == forgets
        ]
        insert_new(connection, answers, rows)
        add_usage(connection, self._model, self._version, unwritten.spent)

    def written(self, unwritten: Unwritten) -> None:
        """It is committed: nothing of it needs to be kept here."""
        for key in unwritten.rows:
            self._unsaved.pop(key, None)
        for kind, spent in unwritten.spent.items():
            left = self._uncounted[kind] - spent
            if left == Usage():
                del self._uncounted[kind]
            else:
                self._uncounted[kind] = left

    async def _find(self, key: str) -> Reply | None:
        stored = await self._lookups.find(key) if key not in self._unsaved else None
        if key in self._unsaved:  # before the lookup, or answered while it ran
            stored = self._unsaved[key].reply
        return msgspec.json.decode(stored, type=Reply) if stored is not None else None

    def _count(self, kind: str, more: Usage) -> None:
        for sums in (self._uncounted, self.spent):
            sums[kind] = sums.get(kind, Usage()) + more

    def _tick(self, kind: str, change: int) -> None:
        """Count the time since the last change as worked if anything was in flight."""
        now = time.monotonic()
        if self._in_flight:
            self._count(kind, Usage(seconds=now - self._since))
        self._since = now
        self._in_flight += change


class Lookups:
    """Finds stored answers in a thread; what is asked for while one query runs goes into the next one together."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asked: dict[str, asyncio.Future[bytes | None]] = {}
        self._running: asyncio.Task[None] | None = None

    async def find(self, key: str) -> bytes | None:
        future = self._asked.setdefault(key, asyncio.get_running_loop().create_future())
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await asyncio.shield(future)  # others may wait for the same key

    async def _run(self) -> None:
        while self._asked:
            waiting, self._asked = self._asked, {}
            try:
                replies = await asyncio.to_thread(self._read, list(waiting))
            except Exception as error:
                for future in waiting.values():
                    future.set_exception(error)
                    future.exception()  # whoever asked may have been cancelled: then nobody reads it
            else:
                for key, future in waiting.items():
                    future.set_result(replies.get(key))

    def _read(self, keys: list[str]) -> dict[str, bytes]:
        replies: dict[str, bytes] = {}
        with self._engine.connect() as connection:
            for start in range(0, len(keys), 500):  # below every driver's limit on parameters
                query = select(answers.c.key, answers.c.reply).where(answers.c.key.in_(keys[start : start + 500]))
                replies |= {row.key: row.reply for row in connection.execute(query)}
        return replies


def add_usage(connection: Connection, model: str, prompt_version: str, spent: dict[str, Usage]) -> None:
    """Add to the stored counters of a model and prompt version; several workers may do so at once."""
    rows = [
        {"model": model, "prompt_version": prompt_version, "kind": kind, **asdict(more)}
        for kind, more in sorted(spent.items())
    ]
    add_up(connection, usage, rows)


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
