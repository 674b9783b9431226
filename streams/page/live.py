"""Follows a user's updates for as long as the page is open, and says when something is to be read anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from nicegui import background_tasks

from streams.client import AsyncClient, ServiceError, Update

GATHER_S = 0.25  # what comes within this time is shown together
AGAIN_S = 2.0  # between attempts to follow where the service has gone
log = structlog.get_logger()


class Follower:
    """One page's task. `changed` is called with the updates that came, and with none after every break."""

    def __init__(
        self,
        client: AsyncClient,
        user_id: str,
        changed: Callable[[list[Update]], Awaitable[None]],
        connected: Callable[[bool], None],
    ) -> None:
        self._client, self._user_id = client, user_id
        self._changed, self._connected = changed, connected
        self._tasks: list[asyncio.Task[None]] = []
        self._queue: asyncio.Queue[Update] = asyncio.Queue(10_000)

    def start(self) -> None:
        """Once: a browser that comes back after a break finds its page followed all the while."""
        if self._tasks:
            return
        self._tasks = [background_tasks.create(self._read()), background_tasks.create(self._show())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _read(self) -> None:
        while True:
            try:
                async for update in self._client.updates(self._user_id):
                    if update.kind == "ready":
                        self._connected(True)
                    await self._queue.put(update)
            except ServiceError as error:
                log.info("updates end", status=error.status)
            self._connected(False)
            await asyncio.sleep(AGAIN_S)

    async def _show(self) -> None:
        while True:
            found = [await self._queue.get()]
            await asyncio.sleep(GATHER_S)
            while not self._queue.empty():
                found.append(self._queue.get_nowait())
            try:
                await self._changed([one for one in found if one.kind != "ready"])
            except ServiceError as error:
                log.info("what came cannot be shown yet", status=error.status, reason=str(error))
