"""LLM servers as they are: what providers answer beside the protocol, and what the client and `learn` make of it.

Every mode is a server on a socket; the client is told nothing but its address.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from interest.errors import Denied, LlmError, Refused, Unavailable, Unreadable
from interest.llm.http import HttpModel
from interest.llm.protocol import Message, Reply, Request
from interest.llm.refusals import RefusalPolicy
from interest.llm.scripted import Scripted
from interest.write.prompts import ANSWER_SCHEMA
from tests.support.chat_server import Body, ChatServer, Odd

GOOD = "dramas and comedies"
RULES = Message("system", "You write plain English.")


def asked(content: str = "What does this user like?", **changes: Any) -> Request:
    return Request(**({"messages": (RULES, Message("user", content))} | changes))


def ask(server: ChatServer, *requests: Request, judged: bool = False, **options: Any) -> list[Reply]:
    model = HttpModel(server.url, model="m", backoff_s=0.001, **options)
    complete = RefusalPolicy(model) if judged else model

    async def together() -> list[Reply]:
        return await asyncio.gather(*(complete(one) for one in requests or (asked(),)))

    return asyncio.run(together())


def judge(server: ChatServer, *requests: Request, **options: Any) -> list[Reply | BaseException]:
    """What becomes of each request where one refusal is held against the others."""
    policy = RefusalPolicy(HttpModel(server.url, model="m", backoff_s=0.001, **options))

    async def together() -> list[Reply | BaseException]:
        return await asyncio.gather(*(policy(one) for one in requests), return_exceptions=True)

    return asyncio.run(together())


def says(content: Any, *, finish: str | None = "stop", usage: Any = None, **message: Any) -> Body:
    choice = {"message": {"role": "assistant", "content": content} | message, "finish_reason": finish}
    return {"choices": [choice], "usage": usage}


def content_of(body: Body) -> str:
    return "\n".join(message["content"] for message in body["messages"])


def error(status: int, words: str, **more: Any) -> Odd:
    return lambda _body: (status, json.dumps({"error": {"message": words} | more}).encode())


USABLE: list[tuple[str, Any]] = [
    ("a think block", says(f"<think>\nLet me see. They like\n</think>\n\n{GOOD}")),
    ("an unopened think block", says(f"They like films.\n</think>\n{GOOD}")),
    ("thoughts in brackets", says(f"[THINK]hm[/THINK]{GOOD}")),
    ("channels", says(f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{GOOD}")),
    ("content in chunks", says([{"type": "text", "text": "dramas "}, {"type": "text", "text": "and comedies"}])),
    ("thoughts in chunks", says([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                                 {"type": "text", "text": GOOD}])),
    ("a chunk by itself", says({"type": "text", "text": GOOD})),
    ("no usage", {"choices": [{"message": {"content": GOOD}, "finish_reason": "stop"}]}),
    ("counts that are null", says(GOOD, usage={"prompt_tokens": None, "completion_tokens": "7"})),
    ("no finish reason", says(GOOD, finish=None)),
    ("another provider's finish reason", says(GOOD, finish="end_turn")),
    ("further fields", says(GOOD, reasoning_content="hm", annotations=[]) | {"id": 7, "error": None}),
    ("a delta", {"choices": [{"delta": {"content": GOOD}}]}),
    ("the older form", {"choices": [{"text": GOOD, "finish_reason": "stop"}]}),
    ("a list around it", [says(GOOD)]),
]  # fmt: skip


@pytest.mark.parametrize("answer", [answer for _, answer in USABLE], ids=[name for name, _ in USABLE])
def test_a_usable_reply_is_used(answer: Any) -> None:
    with ChatServer(Scripted(GOOD), odd=lambda _body: (200, json.dumps(answer).encode())) as server:
        (reply,) = ask(server)
        assert (reply.text, reply.finish_reason, len(server.bodies)) == (GOOD, "stop", 1)
        assert reply.prompt_tokens >= 0


def test_a_stream_nobody_asked_for_is_put_together() -> None:
    events = [{"choices": [{"delta": {"content": part}}]} for part in ("dramas ", "and ", "comedies")]
    events.append({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"completion_tokens": 3}})
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    with ChatServer(Scripted(GOOD), odd=lambda _body: (200, stream.encode())) as server:
        (reply,) = ask(server)
    assert (reply.text, reply.completion_tokens) == (GOOD, 3)


@pytest.mark.parametrize("bad", [b"\xff\xfe", b"\\ud800", b"\\u0000", b"\x01", b"\xc3"])
def test_bytes_that_are_not_text_are_replaced(bad: bytes) -> None:
    body = b'\xef\xbb\xbf{"choices": [{"message": {"content": "dramas ' + bad + b' and comedies"}}]}'
    with ChatServer(Scripted(GOOD), odd=lambda _body: (200, body)) as server:
        (reply,) = ask(server)
    assert reply.text.startswith("dramas ")
    assert reply.text.endswith(" and comedies")
    assert "\0" not in reply.text
    reply.text.encode()


@pytest.mark.parametrize(
    "body",
    [b"", b"OK", b"<html>502</html>", b"[]", b"null", b'{"choices": null}', b'{"choices": [null]}', b"data: [DONE]",
     b'{"choices": [{"finish_reason": "stop"}]}', b'{"choices": [{"message": null}]}', b"[" * 9000, b'{"a": 1'],
)  # fmt: skip
def test_what_is_no_completion_is_unreadable_and_no_traceback(body: bytes) -> None:
    with (
        ChatServer(Scripted(GOOD), odd=lambda _body: (200, body)) as server,
        pytest.raises(Denied, match=r"does not speak the OpenAI protocol|without a text"),
    ):
        ask(server, judged=True)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "No credit left", "code": 402}}, r"402: No credit left"),
        ({"error": {"message": "Bad key", "code": "invalid_api_key"}}, r"400: Bad key \(invalid_api_key\)"),
        ({"error": "model is loading"}, r"model is loading"),
        ({"detail": "no such deployment"}, r"no such deployment"),
        ([{"error": {"message": "API key not valid.", "code": 400}}], r"400: API key not valid\."),
        ({"choices": [{"error": {"message": "Upstream timed out", "code": 400}}]}, r"Upstream timed out"),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": '{"error": "quota of tuesday"}'}}},
         r"Provider returned error .*quota of tuesday"),
    ],
)  # fmt: skip
def test_an_error_under_200_is_shown_in_the_providers_words(body: Any, words: str) -> None:
    with (
        ChatServer(Scripted(GOOD), odd=lambda _body: (200, json.dumps(body).encode())) as server,
        pytest.raises(Denied, match=words),
    ):
        ask(server, judged=True)


def test_an_error_under_200_that_says_it_will_pass_is_waited_for() -> None:
    busy = [{"error": {"message": "Rate limited", "code": 429}}] * 2
    with ChatServer(Scripted(GOOD), odd=lambda _body: busy.pop() if busy else None) as server:
        (reply,) = ask(server)
    assert (reply.text, len(server.bodies)) == (GOOD, 3)


def reasoning(needs: int, **message: Any) -> Odd:
    """A model that thinks for so many tokens first."""

    def odd(body: Body) -> Body:
        if body["max_tokens"] < needs:
            return says(None, finish="length", **message)
        return says(GOOD, **message)

    return odd


@pytest.mark.parametrize("message", [{"reasoning_content": "Hm, dramas"}, {"reasoning": "Hm"}, {}])
def test_a_model_that_reasons_past_its_limit_gets_room_and_it_is_said(
    message: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with ChatServer(Scripted(GOOD), odd=reasoning(1_000, **message)) as server:
        model = HttpModel(server.url, model="thinker")
        for _ in range(2):
            assert asyncio.run(model(asked())).text == GOOD
        assert [body["max_tokens"] for body in server.bodies] == [64, 64 + 1_024, 64 + 1_024]  # learnt once
    assert len(caplog.messages) == 1
    assert "thinker reasons before it answers" in caplog.messages[0]


def test_unended_thoughts_in_the_content_get_room_too() -> None:
    def odd(body: Body) -> Body:
        text = "<think>They like dramas, or do they" if body["max_tokens"] < 3_000 else f"<think>hm</think>{GOOD}"
        return says(text, finish="length" if body["max_tokens"] < 3_000 else "stop")

    with ChatServer(Scripted(GOOD), odd=odd) as server:
        assert ask(server)[0].text == GOOD
        assert len(server.bodies) == 3


def test_a_model_that_never_stops_reasoning_is_told_with_the_remedy() -> None:
    with (
        ChatServer(Scripted(GOOD), odd=reasoning(10**9)) as server,
        pytest.raises(Denied, match=r"reasons through 16,384 tokens without an answer; turn its reasoning off"),
    ):
        ask(server, judged=True)


@pytest.mark.parametrize(
    ("given", "root"),
    [("", "/v1"), ("/", "/v1"), ("/v1", "/v1"), ("/v1/", "/v1"), ("/v1beta/openai", "/v1beta/openai"),
     ("/v1beta/openai/", "/v1beta/openai"), ("/api/paas/v4", "/api/paas/v4"), ("/openai", "/openai"),
     ("/v1/chat/completions", "/v1"), ("/proxy/v1", "/proxy/v1")],
)  # fmt: skip
def test_an_address_is_used_as_it_is_given(given: str, root: str) -> None:
    with ChatServer(Scripted(GOOD), root=root) as server:
        model = HttpModel(server.url + given, model="m")
        assert asyncio.run(model(asked())).text == GOOD
        asyncio.run(model.probe())


def test_what_is_secret_in_an_address_is_in_no_error() -> None:
    with ChatServer(Scripted(GOOD), fail_first=9, status=401) as server:
        host = server.url.removeprefix("http://")
        with pytest.raises(Denied) as denied:
            asyncio.run(HttpModel(f"http://me:pass@{host}/v1?key=hidden", model="m")(asked()))
    assert "pass" not in str(denied.value)
    assert "hidden" not in str(denied.value)


def test_fields_that_are_not_openais_are_sent_only_off_their_default() -> None:
    with ChatServer(Scripted(GOOD)) as server:
        ask(server, asked(), asked(repetition_penalty=1.0), asked(schema=ANSWER_SCHEMA))
        openais = {"model", "messages", "max_tokens", "temperature", "top_p", "seed", "response_format"}
        assert all(set(body) <= openais for body in server.bodies)
        server.bodies.clear()
        ask(server, asked(repetition_penalty=1.2, opening="This user"))
        (body,) = server.bodies
    assert body["repetition_penalty"] == 1.2
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def refuses(*fields: str, status: int = 400, words: str = "Unrecognized request argument supplied: {}") -> Odd:
    def odd(body: Body) -> tuple[int, bytes] | None:
        named = [field for field in fields if field in body]
        return (status, json.dumps({"error": {"message": words.format(named[0])}}).encode()) if named else None

    return odd


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("field", ["repetition_penalty", "seed", "top_p", "temperature", "response_format"])
def test_a_field_that_a_refusal_names_is_left_out_from_then_on(field: str, status: int) -> None:
    request = asked(repetition_penalty=1.2, schema=ANSWER_SCHEMA)
    with ChatServer(Scripted(GOOD), odd=refuses(field, status=status)) as server:
        model = HttpModel(server.url, model="m")
        for _ in range(2):
            assert asyncio.run(model(request)).text == GOOD
        assert [field in body for body in server.bodies] == [True, False, False]
        told = "evidence" in content_of(server.bodies[-1])
    assert told == (field == "response_format")  # then the prompt says how to answer


def test_the_fields_of_a_refusal_are_found_in_its_details() -> None:
    def odd(body: Body) -> tuple[int, bytes] | None:
        if "seed" not in body:
            return None
        detail = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]
        return 422, json.dumps({"detail": detail}).encode()

    with ChatServer(Scripted(GOOD), odd=odd) as server:
        assert [one.text for one in ask(server, *(asked(str(number)) for number in range(8)))] == [GOOD] * 8


def test_the_newer_name_of_the_token_limit_is_learnt() -> None:
    words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    with ChatServer(Scripted(GOOD), odd=refuses("max_tokens", words=words)) as server:
        assert ask(server)[0].text == GOOD
        assert server.bodies[-1]["max_completion_tokens"] == 64


def test_without_continue_final_message_the_opening_is_asked_for() -> None:
    opened = "This user enjoyed dramas."
    request = asked(opening="This user enjoyed")
    for answer in (opened, "dramas."):
        with ChatServer(Scripted(GOOD), odd=refuses("continue_final_message", "add_generation_prompt")) as server:
            usual = server.odd
            server.odd = lambda body, usual=usual, answer=answer: usual(body) or says(answer)  # type: ignore[misc]
            assert ask(server, request)[0].text == opened
            assert [message["role"] for message in server.bodies[-1]["messages"]] == ["system", "user"]
            assert 'Begin your answer with "This user enjoyed"' in content_of(server.bodies[-1])


def test_a_model_without_a_system_role_gets_one_message() -> None:
    def odd(body: Body) -> tuple[int, bytes] | None:
        system = any(message["role"] == "system" for message in body["messages"])
        return (400, b'{"error": {"message": "System role not supported"}}') if system else None

    with ChatServer(Scripted(GOOD), odd=odd) as server:
        with pytest.raises(Denied, match=r"400: System role not supported"):
            ask(server, judged=True)
        assert ask(server, judged=True, system_role=False)[0].text == GOOD
        (message,) = server.bodies[-1]["messages"]
    assert message["content"].startswith(RULES.content)


MANY = [asked(f"question {number}") for number in range(12)]
EVERYONES: list[tuple[str, Odd, str]] = [
    ("402", error(402, "Insufficient credits"), r"402: Insufficient credits"),
    ("401", error(401, "Bad key"), r"401: Bad key"),
    ("a key error under 400", error(400, "API key not valid"), r"400: API key not valid"),
    ("403", error(403, "Country not supported"), r"403: Country not supported"),
    ("a system role", error(400, "System role not supported"), r"System role not supported"),
    ("451", error(451, "Not in your region"), r"451: Not in your region"),
    ("null content", lambda _body: says(None), r"without a text"),
    ("empty content", lambda _body: says(""), r"without a text"),
    ("no message", lambda _body: {"choices": [{"finish_reason": "stop"}]}, r"the choice has no message"),
    ("no choices", lambda _body: {"object": "list"}, r"no choices"),
    ("500", error(500, "KeyError: 'messages'"), r"500: KeyError"),
    ("503", error(503, "no healthy upstream"), r"503: no healthy upstream"),
    ("429", error(429, "You exceeded your current quota"), r"429: You exceeded your current quota"),
]  # fmt: skip


@pytest.mark.parametrize(("odd", "words"), [one[1:] for one in EVERYONES], ids=[one[0] for one in EVERYONES])
@pytest.mark.parametrize("many", [MANY, MANY[:1]], ids=["many", "one"])
def test_a_refusal_of_all_is_of_no_prompt(odd: Odd, words: str, many: list[Request]) -> None:
    with ChatServer(Scripted(GOOD), odd=odd) as server:
        found = judge(server, *many, attempts=1)
        assert {type(one) for one in found} <= {Denied, Unavailable}
        assert all(words_match(words, one) for one in found)
        server.odd = None
        assert {one.text for one in ask(server, *many, judged=True)} == {GOOD}


def words_match(words: str, error: Reply | BaseException) -> bool:
    return isinstance(error, LlmError) and re.search(words, str(error)) is not None


FILTERS: list[tuple[str, Callable[[], Odd]]] = [
    ("400", lambda: error(400, "The response was filtered", code="content_filter")),
    ("403", lambda: error(403, "Your input was flagged")),
    ("a content filter under 200", lambda: lambda _body: says(None, finish="content_filter")),
    ("a refusal", lambda: lambda _body: says(None, refusal="I cannot help with that")),
    ("null content", lambda: lambda _body: says(None)),
    ("too long", lambda: error(413, "prompt too long")),
]


@pytest.mark.parametrize("odd", [one[1] for one in FILTERS], ids=[one[0] for one in FILTERS])
@pytest.mark.parametrize("place", [0, 5, 11])
def test_a_refusal_of_one_prompt_is_that_prompts_own(odd: Callable[[], Odd], place: int) -> None:
    filtered = odd()

    def one_of_them(body: Body) -> Any:
        return filtered(body) if content_of(body).endswith(f"question {place}") else None

    with ChatServer(Scripted(GOOD), odd=one_of_them) as server:
        found = judge(server, *MANY)
    assert [type(one) for one in found] == [Refused if number == place else Reply for number in range(12)]


def test_a_prompt_that_stands_alone_is_judged_beside_a_harmless_one() -> None:
    def odd(body: Body) -> tuple[int, bytes] | None:
        return (400, b'{"error": {"message": "flagged"}}') if "question" in content_of(body) else None

    with ChatServer(Scripted(GOOD), odd=odd) as server:
        (alone,) = judge(server, MANY[0])
        assert type(alone) is Refused
        assert {type(one) for one in judge(server, *MANY[:4])} == {Denied}  # four real prompts, none answered


def test_credit_that_runs_out_halfway_refuses_no_prompt() -> None:
    left = [7]

    def odd(_body: Body) -> tuple[int, bytes] | None:
        left[0] -= 1
        return None if left[0] >= 0 else (400, b'{"error": {"message": "Your credit balance is too low"}}')

    with ChatServer(Scripted(GOOD), odd=odd) as server:
        found = judge(server, *MANY, concurrent=3)
        assert {type(one) for one in found} == {Reply, Denied}
        assert sum(isinstance(one, Reply) for one in found) == 7


@pytest.mark.parametrize(
    ("answer", "becomes"),
    [((500, b"Internal Server Error"), Refused), ((200, b"<html>"), Unreadable)],
)
def test_a_prompt_that_breaks_the_server_holds_no_other(
    answer: tuple[int, bytes], becomes: type[LlmError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interest.llm.refusals.BACKOFF_S", 0.001)

    def odd(body: Body) -> tuple[int, bytes] | None:
        return answer if content_of(body).endswith("question 3") else None

    with ChatServer(Scripted(GOOD), odd=odd) as server:
        found = judge(server, *MANY, attempts=1)
    assert [type(one) for one in found] == [becomes if number == 3 else Reply for number in range(12)]


def test_a_refusal_that_passes_is_no_refusal() -> None:
    first = [True]

    def odd(body: Body) -> tuple[int, bytes] | None:
        if content_of(body).endswith("question 3") and first:
            first.clear()
            return 400, b'{"error": {"message": "bad replica"}}'
        return None

    with ChatServer(Scripted(GOOD), odd=odd) as server:
        assert {one.text for one in ask(server, *MANY, judged=True)} == {GOOD}
