"""How this project tries again: one schedule of waits, and one loop (tenacity's) around a call that may succeed later.

Who calls decides which errors may pass and what is said of them. Without `attempts` nothing here gives up by itself:
cancel the coroutine, or raise from `failed`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_never

R = TypeVar("R")
Retriable = Callable[[Exception], bool]
Failed = Callable[[Exception, float], None]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off: the wait doubles from `first_s` up to `most_s`."""

    first_s: float = 0.5
    most_s: float = 10.0
    jitter: float = 0.0  # the random part of a wait: those who failed together do not come back together

    def delay_s(self, failures: int) -> float:
        """How long to wait after so many failures in a row, the first being 1."""
        delay = min(self.first_s * 2.0 ** min(failures - 1, 60), self.most_s)
        return delay * (1 - self.jitter * random.random())


BACKOFF = Backoff()


async def retry(
    call: Callable[[], Awaitable[R]],
    *,
    retriable: Retriable,
    failed: Failed,
    backoff: Backoff = BACKOFF,
    attempts: int | None = None,
    asked_s: Callable[[BaseException], float] = lambda _error: 0.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> R:
    """The result of `call`, made again after every error that is `retriable`; any other error is raised.

    failed: told of each error and of the seconds until the next attempt. attempts: so many calls at most, then the
    last error is raised. asked_s: how long an error asks to be waited for, at least.
    """
    trying = AsyncRetrying(
        wait=_wait(backoff, asked_s), retry=_when(retriable), before_sleep=_told(failed), sleep=sleep, reraise=True,
        stop=stop_after_attempt(attempts) if attempts else stop_never,
    )  # fmt: skip

    async def attempt() -> R:  # tenacity awaits only what is declared so: not what a lambda returns
        return await call()

    return await trying(attempt)


def retry_blocking(
    call: Callable[[], R],
    *,
    retriable: Retriable,
    failed: Failed,
    backoff: Backoff = BACKOFF,
    sleep: Callable[[float], None] = time.sleep,
) -> R:
    """`retry` for code without an event loop."""
    attempts = Retrying(
        wait=_wait(backoff, lambda _error: 0.0),
        retry=_when(retriable),
        before_sleep=_told(failed),
        sleep=sleep,
        reraise=True,
    )
    return attempts(call)


def _wait(backoff: Backoff, asked_s: Callable[[BaseException], float]) -> Callable[[RetryCallState], float]:
    def wait_s(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        return max(backoff.delay_s(state.attempt_number), asked_s(error) if error is not None else 0.0)

    return wait_s


def _when(retriable: Retriable) -> retry_if_exception:
    return retry_if_exception(lambda error: isinstance(error, Exception) and retriable(error))


def _told(failed: Failed) -> Callable[[RetryCallState], None]:
    def before_sleep(state: RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert isinstance(error, Exception)
        failed(error, state.upcoming_sleep)

    return before_sleep
