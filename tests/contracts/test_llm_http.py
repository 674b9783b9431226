"""The HTTP client against a real server on a socket; odd answers by a transport."""

from __future__ import annotations

import asyncio

import httpx
import msgspec
import pytest

from interest.errors import Refused, Unavailable
from interest.llm.http import HttpModel
from interest.llm.protocol import Message, Reply, Request
from interest.llm.scripted import Scripted
from interest.write.prompts import ANSWER_SCHEMA
from tests.support.chat_server import ChatServer

ASKED = Request(messages=(Message("user", "What does this user like?"),))


def ask(model: HttpModel, *requests: Request) -> list[Reply]:
    async def together() -> list[Reply]:
        return await asyncio.gather(*(model(one) for one in requests))

    return asyncio.run(together())


def test_a_busy_server_is_asked_again() -> None:
    with ChatServer(Scripted("dramas"), fail_first=2, status=429) as server:
        (reply,) = ask(HttpModel(server.url, model="m", backoff_s=0.01), ASKED)
        assert (reply.text, len(server.bodies)) == ("dramas", 3)


def test_a_server_that_stays_down_is_unavailable() -> None:
    with ChatServer(Scripted("dramas"), fail_first=99) as server:
        with pytest.raises(Unavailable, match=r"503: .*overloaded"):
            ask(HttpModel(server.url, model="m", attempts=3, backoff_s=0.01), ASKED)
        assert len(server.bodies) == 3


def test_nobody_listening_is_unavailable_and_says_where() -> None:
    with ChatServer(Scripted("dramas")) as server:
        url = server.url
    with pytest.raises(Unavailable, match=url):
        ask(HttpModel(url, model="m", attempts=2, backoff_s=0.01), ASKED)


def test_a_refusal_is_not_asked_again() -> None:
    with ChatServer(Scripted("dramas"), fail_first=99, status=400) as server:
        with pytest.raises(Refused, match="400"):
            ask(HttpModel(server.url, model="m", backoff_s=0.01), ASKED)
        assert len(server.bodies) == 1


def test_the_schema_and_the_parameters_are_sent() -> None:
    with ChatServer(Scripted('{"text": "dramas", "evidence": [1]}')) as server:
        ask(HttpModel(server.url + "/v1/", model="qwen"), msgspec.structs.replace(ASKED, schema=ANSWER_SCHEMA, seed=7))
        (body,) = server.bodies
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["text", "evidence"]
    assert (body["model"], body["seed"], body["temperature"]) == ("qwen", 7, 0.0)


def test_the_key_is_sent_and_in_no_error_and_no_name() -> None:
    with ChatServer(Scripted("dramas"), fail_first=1, status=401) as server:
        model = HttpModel(server.url, model="m", key="sk-secret")
        with pytest.raises(Refused) as refused:
            ask(model, ASKED)
        assert server.keys == ["Bearer sk-secret"]
    assert "sk-secret" not in f"{refused.value} {model.name} {model!r}"


def test_no_more_than_allowed_are_in_flight() -> None:
    with ChatServer(Scripted("dramas")) as server:
        ask(HttpModel(server.url, model="m", concurrent=3), *[ASKED] * 20)
        assert (len(server.bodies), server.most_at_once <= 3) == (20, True)


@pytest.mark.parametrize("content", [b"<html>", b'{"choices": []}', b'{"object": "list"}'])
def test_an_answer_off_the_protocol_is_refused(content: bytes) -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=content))
    with pytest.raises(Refused, match="check --llm"):
        ask(HttpModel("http://nowhere", model="m", transport=transport), ASKED)


def test_a_time_out_is_unavailable() -> None:
    def slow(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("too slow", request=request)

    with pytest.raises(Unavailable, match="ReadTimeout"):
        ask(HttpModel("http://nowhere", model="m", attempts=1, transport=httpx.MockTransport(slow)), ASKED)
