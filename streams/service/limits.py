"""The gate in front of every request: how large, how many at once, how long it took. No queue without end."""

from __future__ import annotations

import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streams.service.metrics import ServiceMetrics
from streams.service.problems import RETRY_S, response

log = structlog.get_logger()
WATCHED = ("/live", "/ready", "/metrics")  # are answered whatever else is going on


class Gate:
    """ASGI middleware. The access log has the route's template, never the path: that would name the user."""

    def __init__(self, app: ASGIApp, *, metrics: ServiceMetrics, concurrent: int, body: int) -> None:
        """concurrent: requests answered at once; more are told to come again. body: bytes of one, at most."""
        self._app, self._metrics = app, metrics
        self._concurrent, self._body, self.in_flight = concurrent, body, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in WATCHED:
            await self._app(scope, receive, send)
            return
        if self.in_flight >= self._concurrent:
            self._metrics.refused.labels("concurrency").inc()
            text = f"{self._concurrent} requests are being answered; come again"
            await response(503, text, retry_s=RETRY_S)(scope, receive, send)
            return
        if (length := _declared(scope)) is not None and length > self._body:
            await self._too_large(scope, receive, send)
            return
        await self._pass(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status, size = time.monotonic(), 500, 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._body:
                raise _TooLargeError
            return message

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.in_flight += 1
        self._metrics.in_flight.inc()
        try:
            await self._app(scope, counted, seen)
        except _TooLargeError:
            status = 413
            await self._too_large(scope, receive, send)
        finally:
            self.in_flight -= 1
            self._metrics.in_flight.dec()
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.monotonic() - began
            self._metrics.seconds.labels(route, str(status)).observe(seconds)
            log.info("request", method=scope["method"], route=route, status=status, ms=round(1000 * seconds, 1))

    async def _too_large(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._metrics.refused.labels("body").inc()
        await response(413, f"the body has more than {self._body:,} bytes", field="body")(scope, receive, send)


class _TooLargeError(Exception):
    """A body that did not say its length is longer than is read."""


def _declared(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None
