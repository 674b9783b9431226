"""Asks the language model for the interest stage: the oldest partition first, so many calls at once, and for as long as
it takes.

A server that is away, overloaded, broken, wrongly addressed or refusing everything is waited for: a call ends with the
model's answer, or with a refusal of this one request while others are answered.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

import structlog

from interest.errors import Denied, LlmError, Refused, Unavailable
from interest.llm.protocol import Complete, Reply, Request
from interest.llm.refusals import RefusalPolicy
from interest.retry import Backoff, retry
from streams.stages.interest.priority_semaphore import PrioritySemaphore
from streams.stages.stage import Context

BACKOFF = Backoff(jitter=0.5)  # calls that failed together do not come back together
PROBE_EVERY_S = 15.0  # of a server that has not answered a call for so long: /ready knows before there is work
log = structlog.get_logger()


class Model(Protocol):
    """`interest.llm.http.HttpModel`."""

    async def __call__(self, request: Request) -> Reply: ...

    async def probe(self) -> None: ...


class LlmClient:
    """The calls of one worker."""

    def __init__(self, context: Context, model: Model, *, concurrent: int, stage: str = "interest") -> None:
        self._model, self._stage = model, stage
        self._complete = RefusalPolicy(model)
        self._metrics, self._health = context.metrics, context.health
        self._semaphore = PrioritySemaphore(concurrent)
        self._failing = 0  # calls that wait after a failure
        self._answered = float("-inf")  # when a call last succeeded
        self._last_failed = False
        self.in_flight = 0

    def at(self, order: int) -> Complete:
        """A `Complete` for the work with this place in the line."""

        async def complete(request: Request) -> Reply:
            return await self._call(order, request)

        return complete

    def close(self) -> None:
        """Begin no more calls until `open`; those in flight go on."""
        self._semaphore.close()

    def open(self) -> None:
        self._semaphore.open()

    async def _call(self, order: int, request: Request) -> Reply:
        """Raises Refused, and nothing else. Waits outside the semaphore: somebody else may try."""

        async def call() -> Reply:
            async with self._semaphore.acquire(order):
                return await self._call_once(request)

        return await retry(
            call,
            retriable=lambda error: isinstance(error, Unavailable | Denied),
            failed=self._report,
            backoff=BACKOFF,
            sleep=self._wait,
        )

    async def _call_once(self, request: Request) -> Reply:
        self._count(1)
        try:
            reply = await self._complete(request)
        except Denied:  # of every request: reported, and waited for
            raise
        except Refused:
            self._metrics.calls.labels("refused").inc()
            self._succeeded()
            raise
        finally:
            self._count(-1)
        self._metrics.calls.labels("ok" if reply.finish_reason == "stop" else reply.finish_reason).inc()
        self._metrics.tokens.labels("prompt").inc(reply.prompt_tokens)
        self._metrics.tokens.labels("completion").inc(reply.completion_tokens)
        self._succeeded()
        return reply

    def _report(self, failure: Exception, _wait_s: float) -> None:
        cause = type(failure).__name__
        self._metrics.calls.labels(cause.lower()).inc()
        self._metrics.retries.labels(self._stage, cause).inc()
        if "llm" not in self._health.down:
            log.warning("the language model fails", stage=self._stage, error=str(failure))
        self._health.failed("llm", str(failure))
        self._last_failed = True

    async def _wait(self, seconds: float) -> None:
        self._failing += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._failing -= 1

    def _count(self, change: int) -> None:
        self.in_flight += change
        self._metrics.in_flight.set(self.in_flight)

    def _succeeded(self) -> None:
        self._answered = time.monotonic()
        self._last_failed = False
        self._health.up("llm")

    async def keep_probing(self) -> None:
        """Ask whether the server is there while no call says so. Runs until it is cancelled."""
        while True:
            if time.monotonic() - self._answered >= PROBE_EVERY_S:
                try:
                    await self._model.probe()
                except LlmError as error:
                    self._health.failed("llm", str(error))
                else:
                    # a server may list its models and fail at every call: then only a call can say that it is well
                    if not (self._last_failed and (self._failing or self.in_flight)):
                        self._health.up("llm")
            await asyncio.sleep(PROBE_EVERY_S)
