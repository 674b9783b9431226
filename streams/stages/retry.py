"""How a stage waits out trouble that may pass: a broker, a store or a server that is not there is asked again until it
answers.

Every failure is counted in `retries` and said in /ready; nothing is skipped meanwhile. What cannot pass by waiting is
raised. Cancel the waiting to give up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from interest.retry import BACKOFF, Backoff, retry
from streams.kafka.clients import KafkaError
from streams.kafka.errors import RefusedError, is_client_error
from streams.stages.stage import Context

R = TypeVar("R")
log = structlog.get_logger()


class Client(Protocol):
    """An aiokafka consumer or producer."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


C = TypeVar("C", bound=Client)

SERVERS = ("kafka", "store")


class RetryPolicy:
    """One stage's way of waiting."""

    def __init__(self, context: Context, stage: str, backoff: Backoff = BACKOFF) -> None:
        self._context, self._stage, self._backoff = context, stage, backoff

    async def kafka(self, call: Callable[[], Awaitable[R]], what: str) -> R:
        """The result of `call`, made again while Kafka does not answer. `what` could not be done, for the report."""
        return await self.until_done("kafka", call, what, _is_kafkas)

    async def store(self, call: Callable[[], R], what: str) -> R:
        """The result of `call`, which is SQL and runs in a thread, made again while the store does not answer."""
        return await self.storing(partial(asyncio.to_thread, call), what)

    async def storing(self, call: Callable[[], Awaitable[R]], what: str) -> R:
        """The same of a `call` that is awaited."""
        return await self.until_done("store", call, what, _is_stores)

    async def until_done(
        self, part: str, call: Callable[[], Awaitable[R]], what: str, retriable: Callable[[Exception], bool]
    ) -> R:
        """The result of `call`, made again after every error that is `retriable`; `part` is down meanwhile.

        A server that answers is up, whoever it failed before. Any other part only once what failed has succeeded.
        """
        failures = 0

        def failed(error: Exception, wait_s: float) -> None:
            nonlocal failures
            failures += 1
            cause = error.orig if isinstance(error, DBAPIError) else None
            self.report(part, what, cause or error, wait_s)

        result = await retry(call, retriable=retriable, failed=failed, backoff=self._backoff)
        if failures or part in SERVERS:
            self._context.health.up(part)
        return result

    def report(self, part: str, what: str, error: BaseException, wait_s: float) -> None:
        """Count and report a failure after which the same is tried again in `wait_s`."""
        cause = type(error).__name__
        why = " ".join(str(error).split())[:500] or cause
        self._context.metrics.retries.labels(self._stage, cause).inc()
        self._context.health.failed(part, f"{self._stage} {what}: {why}")
        log.warning("trying again", stage=self._stage, part=part, what=what, error=f"{cause}: {why}", after_s=wait_s)

    async def failed(self, part: str, what: str, error: BaseException, failures: int = 1) -> None:
        """Report the latest of so many failures in a row, then wait."""
        wait_s = self._backoff.delay_s(failures)
        self.report(part, what, error, wait_s)
        await asyncio.sleep(wait_s)


def is_passing(error: DBAPIError) -> bool:
    """Whether the same statement may succeed later: no connection, a lock, a full disk, a deadlock."""
    return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)


def _is_stores(error: Exception) -> bool:
    return isinstance(error, PoolTimeout) or (isinstance(error, DBAPIError) and is_passing(error))


def _is_kafkas(error: Exception) -> bool:
    """Also what a broker refuses for good, such as a right that it may grant yet: the stage holds, and says so."""
    if isinstance(error, RefusedError):
        return False
    return isinstance(error, KafkaError | OSError) or is_client_error(error)


async def connected(context: Context, stage: str, make: Callable[[], C]) -> C:
    """A started client; tried until a broker answers."""

    async def start() -> C:
        client = make()
        try:
            await client.start()
        except BaseException:
            await client.stop()
            raise
        return client

    return await RetryPolicy(context, stage).kafka(start, "cannot reach Kafka")
