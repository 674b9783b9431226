"""A worker's small HTTP server: /metrics for Prometheus, /live and /ready for whoever runs the worker."""

from __future__ import annotations

import time

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from streams.stages.stage import Context
from streams.worker.preflight import port_taken


class HealthServer:
    """Serves what the context's metrics and health say. `port` is known after `start`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        """Raises InputError where the port is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/live", self._live)
        app.router.add_get("/ready", self._ready)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        agent = self._context.settings.agent
        try:
            await web.TCPSite(self._runner, agent.host, agent.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise port_taken(agent.host, agent.port, error) from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _request: web.Request) -> web.Response:
        ready = not self._context.health.reasons_not_ready(time.monotonic())
        self._context.metrics.ready.set(ready)
        return web.Response(
            body=generate_latest(self._context.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _live(self, _request: web.Request) -> web.Response:
        """The event loop answers; a worker that is stuck ends by itself."""
        return web.json_response({"live": True})

    async def _ready(self, _request: web.Request) -> web.Response:
        reasons = self._context.health.reasons_not_ready(time.monotonic())
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)
