"""What every language model behind the seam must do: the fake, SmolLM2 in this process by
transformers and in int8, a server over HTTP, and vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from interest.errors import Refused
from interest.llm.http import HttpModel
from interest.llm.int8 import Int8Model
from interest.llm.local import LocalModel
from interest.llm.protocol import Complete, Message, Reply, Request
from interest.llm.scripted import Scripted
from streams.fetch.int8 import int8_weights
from tests.support.chat_server import ChatServer

QUESTION = (Message("system", "You write plain English."), Message("user", "Name three colours in one short sentence."))


def request(**changes: object) -> Request:
    values: dict[str, object] = {"messages": QUESTION, "opening": "Three colours are", "max_tokens": 24}
    return Request(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def smollm(llm_folder: Path) -> LocalModel:
    import torch

    torch.set_num_threads(1)
    return LocalModel(llm_folder, batch=4, dtype="float32")  # where bfloat16 is quicker, a batch rounds choices apart


@pytest.fixture(scope="session")
def int8(llm_folder: Path) -> Int8Model:
    return Int8Model(llm_folder, int8_weights(llm_folder, say=print), batch=4)


def _continued(asked: Request) -> str:
    return f"{asked.opening} red, green and blue."


@pytest.fixture(
    params=[
        "scripted",
        "http",
        pytest.param("smollm", marks=pytest.mark.model),
        pytest.param("int8", marks=pytest.mark.model),
        pytest.param("http-smollm", marks=pytest.mark.model),
        pytest.param("vllm", marks=pytest.mark.vllm),
    ]
)
def complete(request: pytest.FixtureRequest) -> Iterator[Complete]:
    """Each implementation; the HTTP one against a real server on a socket, with scripted answers and with SmolLM2's."""
    if request.param == "scripted":
        yield Scripted(_continued)
    elif request.param in ("smollm", "int8"):
        yield request.getfixturevalue(request.param)
    elif request.param == "vllm":
        server = request.getfixturevalue("vllm")
        yield HttpModel(server.url, model=server.name, key=server.key)
    else:
        behind = Scripted(_continued) if request.param == "http" else request.getfixturevalue("smollm")
        with ChatServer(behind) as server:
            yield HttpModel(server.url, model="m", key="secret")


def ask(complete: Complete, *requests: Request) -> list[Reply]:
    async def together() -> list[Reply]:
        return await asyncio.gather(*(complete(one) for one in requests))

    return asyncio.run(together())


def test_the_answer_goes_on_from_the_opening(complete: Complete) -> None:
    (reply,) = ask(complete, request())
    assert reply.text.startswith("Three colours are")
    assert len(reply.text) > len("Three colours are ")
    assert "<|" not in reply.text


def test_it_says_how_it_ended_and_what_it_cost(complete: Complete) -> None:
    (reply,) = ask(complete, request())
    assert reply.finish_reason in ("stop", "length")
    assert reply.prompt_tokens > 0
    assert 0 < reply.completion_tokens <= 24


def test_greedy_answers_repeat(complete: Complete) -> None:
    first, second = (ask(complete, request())[0].text for _ in range(2))
    assert first == second


def test_sampled_answers_repeat_under_their_seed(complete: Complete) -> None:
    first, second = (ask(complete, request(temperature=0.8, seed=3))[0].text for _ in range(2))
    assert first == second


def test_many_at_once_answer_each_its_own_question(complete: Complete) -> None:
    openings = [f"Colour {number} is" for number in range(6)]
    replies = ask(complete, *(request(opening=opening) for opening in openings))
    assert [reply.text[: len(opening)] for reply, opening in zip(replies, openings, strict=True)] == openings


@pytest.mark.model
def test_a_batch_changes_no_answer(smollm: LocalModel) -> None:
    """Greedy rows decoded together say what each says alone (float32: rounding far below any choice here)."""
    requests = [
        request(opening=opening) for opening in ("Three colours are", "I", "The colours of the flag of France are")
    ]
    requests.append(request(temperature=0.8, seed=5))
    together = [reply.text for reply in ask(smollm, *requests)]
    assert together == [ask(smollm, one)[0].text for one in requests]


@pytest.mark.model
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_token_limit_is_told(smollm: LocalModel, int8: Int8Model, temperature: float) -> None:
    for model in (smollm, int8):
        (reply,) = ask(model, request(max_tokens=2, temperature=temperature))
        assert (reply.finish_reason, reply.completion_tokens) == ("length", 2)


@pytest.mark.model
def test_a_prompt_longer_than_the_context_is_refused(smollm: LocalModel, int8: Int8Model) -> None:
    for model in (smollm, int8):
        with pytest.raises(Refused, match="context"):
            ask(model, request(messages=(Message("user", "red " * 9000),)))


@pytest.mark.model
def test_a_sampled_answer_of_int8_is_another_one_whatever_it_is_asked_beside(int8: Int8Model) -> None:
    greedy, sampled = request(), request(temperature=0.8, seed=3)
    alone = [ask(int8, one)[0].text for one in (greedy, sampled)]
    assert alone[0] != alone[1]
    assert [reply.text for reply in ask(int8, greedy, sampled)] == alone


@pytest.mark.model
def test_int8_names_itself(smollm: LocalModel, int8: Int8Model) -> None:
    """Answers and texts are stored under the name: those of the two are different ones."""
    assert int8.name.endswith(":int8")
    assert smollm.name.rpartition(":")[0] == int8.name.rpartition(":")[0]
