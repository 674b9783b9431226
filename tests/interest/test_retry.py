"""One way to try again: the waits of a schedule, what is raised at once, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from interest.retry import Backoff, retry, retry_blocking


class FlakyCall:
    """Fails so many times, then answers."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.left, self.error, self.calls = failures, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "answer"

    async def later(self) -> str:
        return self()


def is_os(error: Exception) -> bool:
    return isinstance(error, OSError)


def test_waits_double_up_to_the_most() -> None:
    backoff = Backoff(first_s=0.5, most_s=10.0)
    assert [backoff.delay_s(n) for n in range(1, 8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert backoff.delay_s(10**9) == 10.0


def test_jitter_takes_a_random_part_of_a_wait() -> None:
    drawn = {Backoff(first_s=4.0, jitter=0.5).delay_s(1) for _ in range(200)}
    assert 2.0 <= min(drawn) < 2.5
    assert 3.5 < max(drawn) <= 4.0


def test_a_call_is_made_again_until_it_answers_and_each_failure_is_told() -> None:
    call, told, slept = FlakyCall(3, OSError("away")), [], []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    def failed(error: Exception, wait_s: float) -> None:
        told.append((str(error), wait_s))

    assert asyncio.run(retry(call.later, retriable=is_os, failed=failed, sleep=sleep)) == "answer"
    assert (call.calls, slept) == (4, [0.5, 1.0, 2.0])
    assert told == [("away", 0.5), ("away", 1.0), ("away", 2.0)]
    call = FlakyCall(2, OSError("away"))
    slept.clear()

    def undeclared() -> Awaitable[str]:  # not a coroutine function, but what it returns is awaited
        return call.later()

    assert asyncio.run(retry(undeclared, retriable=is_os, failed=failed, sleep=sleep)) == "answer"
    call = FlakyCall(2, OSError("away"))
    slept.clear()
    assert retry_blocking(call, retriable=is_os, failed=lambda *_: None, sleep=slept.append) == "answer"
    assert slept == [0.5, 1.0]


def test_what_may_not_pass_is_raised_at_once_as_it_is() -> None:
    error = ValueError("for good")
    call = FlakyCall(1, error)
    with pytest.raises(ValueError, match="for good") as raised:
        asyncio.run(retry(call.later, retriable=is_os, failed=lambda *_: pytest.fail("told of it")))
    assert raised.value is error
    assert call.calls == 1


def test_waiting_can_be_cancelled_and_given_up() -> None:
    async def cancelled() -> None:
        call = FlakyCall(10**9, OSError())
        waiting = asyncio.create_task(retry(call.later, retriable=is_os, failed=lambda *_: None))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert call.calls == 1

    asyncio.run(cancelled())

    def give_up(error: Exception, _wait_s: float) -> None:
        raise error

    with pytest.raises(OSError, match="away"):
        retry_blocking(FlakyCall(1, OSError("away")), retriable=is_os, failed=give_up)


def test_where_attempts_are_counted_the_last_error_is_raised() -> None:
    call, told = FlakyCall(5, OSError("away")), []

    async def sleep(_seconds: float) -> None:
        pass

    with pytest.raises(OSError, match="away"):
        asyncio.run(retry(call.later, retriable=is_os, failed=lambda *one: told.append(one), attempts=3, sleep=sleep))
    assert (call.calls, len(told)) == (3, 2)
