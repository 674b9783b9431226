"""Waiting out trouble that may pass: a broker, a store or a server that is not there is asked again until it answers.

Every failure is counted in `retries` and said in /ready; nothing is skipped meanwhile. What cannot pass by waiting is
raised. Cancel the waiting to give up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from streams.kafka.clients import KafkaError
from streams.stages.stage import Context

BACKOFF_S, BACKOFF_MAX_S = 0.5, 10.0

R = TypeVar("R")
log = structlog.get_logger()


class Client(Protocol):
    """An aiokafka consumer or producer."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


C = TypeVar("C", bound=Client)


class RetryPolicy:
    """One stage's way of waiting."""

    def __init__(self, context: Context, stage: str) -> None:
        self._context, self._stage = context, stage

    async def kafka(self, call: Callable[[], Awaitable[R]], what: str) -> R:
        """The result of `call`, made again while Kafka does not answer. `what` could not be done, for the report."""
        from aiokafka.errors import KafkaError as AioError
        from kafka.errors import KafkaError as PythonError

        wait = BACKOFF_S
        while True:
            try:
                result = await call()
            except (AioError, PythonError, KafkaError, OSError) as error:
                await self.failed("kafka", what, error, wait)
                wait = min(wait * 2, BACKOFF_MAX_S)
            else:
                self._context.health.up("kafka")
                return result

    async def store(self, call: Callable[[], R], what: str) -> R:
        """The result of `call`, which is SQL and runs in a thread, made again while the store does not answer."""
        return await self.storing(lambda: asyncio.to_thread(call), what)

    async def storing(self, call: Callable[[], Awaitable[R]], what: str) -> R:
        """The same of a `call` that is awaited."""
        wait = BACKOFF_S
        while True:
            try:
                result = await call()
            except DBAPIError as error:
                if not passing(error):
                    raise
                await self.failed("store", what, error.orig or error, wait)
            except PoolTimeout as error:
                await self.failed("store", what, error, wait)
            else:
                self._context.health.up("store")
                return result
            wait = min(wait * 2, BACKOFF_MAX_S)

    def well(self, part: str) -> None:
        self._context.health.up(part)

    async def failed(self, part: str, what: str, error: BaseException, wait: float = BACKOFF_S) -> None:
        """Count and report a failure, then wait."""
        cause = type(error).__name__
        why = " ".join(str(error).split()) or cause
        self._context.metrics.retries.labels(self._stage, cause).inc()
        self._context.health.failed(part, f"{self._stage} {what}: {why}")
        log.warning("trying again", stage=self._stage, part=part, what=what, error=f"{cause}: {why}", after_s=wait)
        await asyncio.sleep(wait)


def passing(error: DBAPIError) -> bool:
    """Whether the same statement may succeed later: no connection, a lock, a full disk, a deadlock."""
    return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)


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
