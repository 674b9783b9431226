"""The service's routes. What each does is in the modules beside this; here stand paths, scopes and shapes."""

from __future__ import annotations

import asyncio
import math
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import Response, StreamingResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import Engine, select

from interest.types import Item, User
from streams.resolve.activation import read_activations
from streams.service import models, problems, reads
from streams.service.access import Keys
from streams.service.insight import insight_router
from streams.service.learner_state import learner_state
from streams.service.limits import Gate
from streams.service.metrics import ServiceMetrics
from streams.service.operate import operate_router
from streams.service.problems import ProblemError
from streams.service.rows import read_rows
from streams.service.score_routes import score_router
from streams.service.scoring import Scoring
from streams.service.updates import updates
from streams.service.writers import Writer
from streams.settings.schema import ServeSettings
from streams.store.stats import read_stats

Limit = Annotated[int, Query(ge=1, le=1000)]
READY_S = 2.0  # that /ready waits for the store
Before = Annotated[int | None, Query(ge=0, description="Only what is older: `next` of the page before")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What one process of the service works with."""

    settings: ServeSettings
    engine: Engine
    keys: Keys
    scoring: Scoring
    writer: Writer
    metrics: ServiceMetrics
    draining: asyncio.Event


def make_app(service: Service) -> FastAPI:
    """The ASGI application."""
    settings = service.settings

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        _tell_of_the_end(service.draining)
        await service.writer.start()
        watching = asyncio.create_task(_watch_artifact(service))
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await service.writer.stop()
        threads.shutdown(wait=False, cancel_futures=True)  # all is answered; one that waits for the store is left

    threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="score")
    # its /docs page loads nothing from outside
    app = FastAPIOffline(
        title="Interestream", lifespan=lifespan, redoc_url=None, description=_ABOUT, responses=problems.RESPONSES
    )
    problems.install(app)
    app.add_middleware(
        Gate,
        metrics=service.metrics,
        concurrent=settings.concurrent,
        body=int(settings.body_mb * (1 << 20)),
        body_s=settings.body_s,
    )
    app.include_router(score_router(service, _allowed(service, "read"), threads))
    _reads(app, service)
    _writes(app, service)
    _operations(app, service)
    for router in (insight_router, operate_router):
        app.include_router(router(service, partial(_allowed, service)))
    return app


_ABOUT = "Scores, interests and behaviours. Errors are RFC 9457 problem details; `field` names what they are about."


async def _watch_artifact(service: Service) -> None:
    """Load the artifact, then look now and then whether another was activated."""
    while True:
        await asyncio.to_thread(service.scoring.refresh)
        await asyncio.sleep(service.settings.poll_s)


def _tell_of_the_end(draining: asyncio.Event) -> None:
    """Set `draining` when the server is told to end, before it waits for what is in flight: streams never end else."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)  # uvicorn's, which is in force by now

        def handle(sig: int, frame: FrameType | None, handler: Any = handler) -> None:
            draining.set()
            if callable(handler):
                handler(sig, frame)

        signal.signal(number, handle)


def _allowed(service: Service, scope: str) -> Any:
    """A dependency: the request has a key with this scope."""

    async def check(request: Request) -> None:
        if not service.keys.any:
            return
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        key = service.keys.find(token) if kind.lower() == "bearer" else None
        if key is None:
            raise ProblemError(401, "give a key of this service: the header Authorization: Bearer KEY")
        if scope not in key.scopes:
            raise ProblemError(403, f"the key {key.name} may not {scope}; it may {', '.join(sorted(key.scopes))}")

    return Depends(check)


def _reads(app: FastAPI, service: Service) -> None:
    read = [_allowed(service, "read")]

    @app.get("/v1/users/{user_id:path}/interests", dependencies=read)
    def interests(user_id: str, limit: Limit = 20, before: Before = None) -> models.Page:
        """A user's interests, newest first: summary, shift, source, and the behaviours behind each summary."""
        with service.engine.connect() as connection:
            return reads.interests_page(connection, user_id, limit, before)

    @app.get("/v1/users/{user_id:path}/representation", dependencies=read)
    def representation(user_id: str) -> models.Representation:
        """A user's newest vector."""
        artifact = service.scoring.artifact
        with service.engine.connect() as connection:
            return reads.representation(connection, user_id, None if artifact is None else artifact.id)

    @app.get("/v1/users/{user_id:path}/behaviors", dependencies=read)
    def behaviors(user_id: str, limit: Limit = 50, before: Before = None) -> models.Page:
        """A user's behaviours, newest first."""
        with service.engine.connect() as connection:
            return reads.behaviors_page(connection, user_id, limit, before)

    @app.get("/v1/users/{user_id:path}/updates", dependencies=read, response_class=StreamingResponse)
    async def user_updates(user_id: str) -> StreamingResponse:
        """Server-sent events from now on: behavior, partition, interest, representation; `ready` comes first."""

        async def until_drained() -> AsyncIterator[bytes]:
            told = updates(service.engine, user_id)
            draining = asyncio.create_task(service.draining.wait())
            try:
                while True:
                    following = asyncio.ensure_future(anext(told))
                    await asyncio.wait({following, draining}, return_when=asyncio.FIRST_COMPLETED)
                    if draining.done():
                        following.cancel()
                        return
                    yield following.result()
            finally:
                draining.cancel()

        return StreamingResponse(until_drained(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _writes(app: FastAPI, service: Service) -> None:
    write, writer = [_allowed(service, "write")], service.writer

    @app.post("/v1/behaviors", response_model=models.WriteAnswer, dependencies=write, openapi_extra=_BEHAVIORS)
    async def post_behaviors(request: Request) -> Response:
        """Write behaviours: a JSON object, a list, or lines (application/x-ndjson). Answered once they are durable.

        Rows that are not behaviours are named by their index and the others are kept. With an `event_id` a repeat is
        dropped if the first lies in the user's open cache or newest closed partition; older ones are not looked at.
        """
        rows = read_rows(await request.body(), request.headers.get("content-type", ""))
        done = await writer.behaviors(rows.behaviors)
        for verdict, count in (("accepted", done.accepted), ("duplicate", done.duplicates), ("offer", done.offers)):
            service.metrics.behaviors.labels(verdict).inc(count)
        service.metrics.behaviors.labels("refused").inc(len(rows.refused))
        told = {**msgspec.to_builtins(done), "refused": msgspec.to_builtins(rows.refused)}
        return Response(msgspec.json.encode(told), media_type="application/json")

    @app.put("/v1/items/{item_id:path}", status_code=204, dependencies=write)
    async def put_item(item_id: models.Id, body: models.ItemBody) -> None:
        """Insert or replace an item of the catalogue."""
        found = Item(item_id=item_id, title=body.title, categories=tuple(body.categories), attributes=body.attributes)
        _check_text(msgspec.to_builtins(found))
        await writer.catalogue({item_id: found}, {})

    @app.put("/v1/users/{user_id:path}", status_code=204, dependencies=write)
    async def put_user(user_id: models.Id, body: models.UserBody) -> None:
        """Insert or replace a user's profile."""
        found = User(user_id=user_id, attributes=body.attributes)
        _check_text(msgspec.to_builtins(found))
        await writer.catalogue({}, {user_id: found})

    @app.delete("/v1/users/{user_id:path}", dependencies=[_allowed(service, "admin")])
    async def delete_user(user_id: models.Id) -> dict[str, int]:
        """Forget a user: every row of every table, and on Kafka tombstones and dead letters. Rows deleted by table.

        On Kafka it first waits for the workers to have read what was written before; where that takes more than 10 s,
        nothing is forgotten and the answer is 503. The topics' logs hold the user until their retention has passed.
        """
        await writer.settle()
        await asyncio.to_thread(_require, service.engine, user_id)
        return await writer.forget(user_id)


def _require(engine: Engine, user_id: str) -> None:
    with engine.connect() as connection:
        reads.require_user(connection, user_id)


def _check_text(value: Any) -> None:
    """PostgreSQL's texts hold no NUL."""
    if "\\u0000" in msgspec.json.encode(value).decode():
        raise ProblemError(422, "a text has a NUL character", field="body")


_BEHAVIOR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["user_id", "item_id", "action", "at"],
    "properties": {
        "user_id": {"type": "string"},
        "item_id": {"type": "string"},
        "action": {"type": "string"},
        "at": {"type": "number", "description": "Event time, UTC seconds"},
        "value": {"type": ["number", "null"]},
        "scene": {"type": ["string", "null"]},
        "event_id": {"type": ["string", "null"]},
    },
}
_BEHAVIORS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"oneOf": [_BEHAVIOR_SCHEMA, {"type": "array", "items": _BEHAVIOR_SCHEMA}]},
            },
            "application/x-ndjson": {"schema": {"type": "string"}},
        },
    }
}


def _operations(app: FastAPI, service: Service) -> None:
    look = _Look(service)

    @app.get("/v1/artifacts", dependencies=[_allowed(service, "read")])
    def artifacts() -> dict[str, Any]:
        """The artifact that scores, and what was activated in this store, newest first."""
        own = service.scoring.artifact
        metrics = {} if own is None else {
            part: {name: None if math.isnan(value) else value for name, value in held.items()}
            for part, held in own.metrics.items()
        }  # fmt: skip
        scoring = None if own is None else {
            "id": own.id, "kind": own.config.kind, "metrics": metrics,
            "tasks": {task.name: str(task.rule) for task in own.spec.tasks},
        }  # fmt: skip
        return {"scoring": scoring, "activations": msgspec.to_builtins(read_activations(service.engine))}

    @app.get("/v1/stats", dependencies=[_allowed(service, "read")])
    def stats() -> dict[str, Any]:
        """What is in the store, counted: a pass over all of it."""
        with service.engine.connect() as connection:
            found: dict[str, Any] = msgspec.to_builtins(read_stats(connection))
        return found

    @app.get("/live", include_in_schema=False)
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/ready", include_in_schema=False)
    async def ready() -> Response:
        """Whether to send requests here. While what is held can be scored, a store that is away does not matter."""
        reasons = [why for why in (service.scoring.not_ready,) if why]
        await look.at_store(READY_S)
        away_s = service.scoring.away.seconds
        if away_s is not None and away_s >= service.settings.stale_s:
            reasons.append(f"the store has not answered for {away_s:.0f} s")
        if service.draining.is_set():
            reasons.append("the service is ending")
        told = {"ready": not reasons, "reasons": reasons, "store_away_s": away_s}
        return Response(msgspec.json.encode(told), 503 if reasons else 200, media_type="application/json")

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        counts = service.scoring.counts()
        if counts is not None:
            service.metrics.take(counts)
        service.metrics.learned(learner_state())
        return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)


class _Look:
    """One question to the store at a time, whoever waits for the answer: a store may not even refuse."""

    def __init__(self, service: Service) -> None:
        self._engine, self._away = service.engine, service.scoring.away
        self._asking: asyncio.Future[None] | None = None

    async def at_store(self, within_s: float) -> None:
        """Ask, and tell the scoring whether the store answers in time."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(asyncio.to_thread(self._ask))
        if not (await asyncio.wait({self._asking}, timeout=within_s))[0]:
            self._away.silent()

    def _ask(self) -> None:
        try:
            with self._engine.connect() as connection:
                connection.execute(select(1))
        except problems.STORE_AWAY:
            self._away.silent()
        else:
            self._away.answered()
