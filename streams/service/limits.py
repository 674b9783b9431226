"""The gate in front of every request: how large, how many at once, how long it took. No queue without end."""

from __future__ import annotations

import asyncio
import time

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streams.service.metrics import ServiceMetrics
from streams.service.problems import RETRY_S, response

log = structlog.get_logger()
STREAMS = 1000  # of events, open at once: between two looks for news one costs nothing
WATCHED = ("/live", "/ready", "/metrics")  # are answered whatever else is going on


class Gate:
    """ASGI middleware. The access log has the route's template, never the path: that would name the user."""

    def __init__(self, app: ASGIApp, *, metrics: ServiceMetrics, concurrent: int, body: int, body_s: float) -> None:
        """concurrent: requests answered at once; more are told to come again. body: bytes of one, at most; body_s:
        seconds in which it must have come, for who sends slowly takes the place of others.
        """
        self._app, self._metrics = app, metrics
        self._concurrent, self._body, self._body_s = concurrent, body, body_s
        self.in_flight = self.streams = 0  # a stream of events is in flight until it begins
        self._too_large = f"the body has more than {body:,} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in WATCHED:
            await self._app(scope, receive, send)
            return
        if self.in_flight >= self._concurrent:
            self._metrics.refused.labels("concurrency").inc()
            text = f"{self._concurrent} requests are being answered; come again"
            await response(503, text, retry_s=RETRY_S)(scope, receive, send)
            return
        if self.streams >= STREAMS and scope["path"].endswith("/updates"):
            self._metrics.refused.labels("streams").inc()
            await response(503, f"{STREAMS:,} streams are open; come again", retry_s=RETRY_S)(scope, receive, send)
            return
        if (length := _declared(scope)) is not None and length > self._body:
            self._metrics.refused.labels("body").inc()
            await response(413, self._too_large, field="body")(scope, receive, send)
            return
        await self._pass(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status, size, whole, streams = time.monotonic(), 500, 0, False, False

        async def counted() -> Message:
            nonlocal size, whole
            if whole:  # what is waited for now is the end of the connection
                return await receive()
            try:
                async with asyncio.timeout(began + self._body_s - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                self._metrics.refused.labels("slow").inc()
                raise BodyError(408, f"the body has not come within {self._body_s:g} s") from None
            whole = not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > self._body:
                self._metrics.refused.labels("body").inc()
                raise BodyError(413, self._too_large)
            return message

        async def seen(message: Message) -> None:
            nonlocal status, streams
            if message["type"] == "http.response.start":
                status = message["status"]
                if streams := (b"content-type", b"text/event-stream") in [
                    (name, value.partition(b";")[0]) for name, value in message["headers"]
                ]:
                    self._count(-1, 1)
                    ended(time.monotonic() - began)
            await send(message)

        def ended(seconds: float) -> None:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.seconds.labels(route, str(status)).observe(seconds)
            log.info("request", method=scope["method"], route=route, status=status, ms=round(1000 * seconds, 1))

        self._count(1, 0)
        try:
            await self._app(scope, counted, seen)
        finally:
            if streams:
                self._count(0, -1)
            else:
                self._count(-1, 0)
                ended(time.monotonic() - began)

    def _count(self, in_flight: int, streams: int) -> None:
        self.in_flight += in_flight
        self.streams += streams
        self._metrics.in_flight.inc(in_flight)
        self._metrics.streams.inc(streams)


class BodyError(HTTPException):
    """A body that did not say its length is longer than is read, or does not come."""

    field = "body"


def _declared(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None
