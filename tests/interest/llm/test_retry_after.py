"""How long a server asks to be left alone."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from interest.errors import Unavailable
from interest.llm.http import HttpModel
from interest.llm.protocol import Message, Request
from interest.llm.retry_after import asked_to_wait_s
from interest.retry import Backoff, retry

ASKED = Request(messages=(Message("user", "What does this user like?"),))
ANSWER = {"choices": [{"message": {"content": "dramas"}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"retry-after": "Fri, 08 Apr 2022 14:03:25 GMT"}, 20.0),
        ({"retry-after": "Fri, 08 Apr 2022 14:03:00 GMT"}, 0.0),  # has passed
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "inf"}, 0.0),
    ],
)
def test_seconds_dates_and_milliseconds_are_read(headers: dict[str, str], seconds: float) -> None:
    assert asked_to_wait_s(httpx.Headers(headers), now=lambda: 1_649_426_585.0) == seconds


def test_a_wait_is_as_long_as_is_asked_for_and_never_shorter_than_the_back_off() -> None:
    slept: list[float] = []
    asked = iter([7.0, 0.1])

    async def call() -> str:
        for seconds in asked:
            raise Unavailable("busy", asked_s=seconds)
        return "answer"

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    def asked_s(error: BaseException) -> float:
        return error.asked_s if isinstance(error, Unavailable) else 0.0

    waiting = retry(
        call, retriable=lambda _: True, failed=lambda *_: None, backoff=Backoff(), asked_s=asked_s, sleep=sleep
    )
    assert asyncio.run(waiting) == "answer"
    assert slept == [7.0, 1.0]


def test_a_server_that_asks_for_a_moment_gets_it() -> None:
    answers = iter([httpx.Response(429, headers={"retry-after": "0.01"}), httpx.Response(200, json=ANSWER)])
    transport = httpx.MockTransport(lambda _request: next(answers))
    model = HttpModel("http://nowhere", model="m", backoff_s=0.0, transport=transport)
    assert asyncio.run(model(ASKED)).text == "dramas"


def test_a_server_that_asks_for_an_hour_is_not_waited_for_in_the_call_and_it_is_said() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(429, headers={"retry-after": "3600"}, json={"error": {"message": "daily quota"}})

    model = HttpModel("http://nowhere", model="m", transport=httpx.MockTransport(answer))
    with pytest.raises(Unavailable, match="429: daily quota; it asks to wait for 3,600 s"):
        asyncio.run(model(ASKED))
    assert len(requests) == 1
