"""The service in a test's process: over its ASGI application, or behind a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvicorn

from fusion.training.artifact import Artifact, save_artifact
from streams.service.app import make_app
from streams.service.server import make_service
from streams.settings.schema import Settings
from streams.store.engine import open_store
from tests.support import live_world as live

ITEMS = [f"i{n}" for n in range(20)] + ["never seen"]
OFFERED = {"user_id": "u5", "item_ids": ITEMS}


def small_service(url: str, folder: Path) -> Artifact:
    """Fill an empty store, and put an untrained SRP4CTR with match scalars into a folder."""
    engine = open_store(url)
    log = live.world(engine)
    spec, space = live.fit(log, engine)
    engine.dispose()
    artifact = live.artifact_of(log, spec, live.SRP4CTR, space)
    save_artifact(folder, artifact.model, spec, artifact.statistics, artifact.config, {}, space=space)
    return artifact


@asynccontextmanager
async def running(
    settings: Settings, key: str | None = None, socket: str | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """The application with its lifespan, and a client of it. socket: of the writing process."""
    service = make_service(settings, socket)
    app = make_app(service)
    service.scoring.refresh()
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as client:
            yield client
    service.engine.dispose()


def of(settings: Settings, **changes: Any) -> Settings:
    return msgspec.structs.replace(settings, serve=msgspec.structs.replace(settings.serve, **changes))


def is_problem(response: httpx.Response, status: int, field: str | None = None) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    assert told["status"] == status
    assert told["title"]
    assert told.get("field") == field
    return str(told["detail"])


@asynccontextmanager
async def listening(app: Any, **where: Any) -> AsyncIterator[uvicorn.Server]:
    """An application behind a socket, as uvicorn serves it. where: `uds`, or `port` 0 for any."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, **where))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server
    server.should_exit = True
    await task
