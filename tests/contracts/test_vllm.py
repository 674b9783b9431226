"""What only a real vLLM server shows: it takes all that the HTTP client sends, obeys schemas, and says no clearly.

The contract of every language model runs on it too, in test_llm_contract.py. SmolLM2 is weak: nothing here asks for
good answers.
"""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request

import msgspec
import pytest

from deploy.vllm.server import NAME, Server
from interest.errors import Denied, Refused
from interest.facts.counts import Facts, facts_of
from interest.llm.http import HttpModel
from interest.llm.protocol import Message, Reply, Request
from interest.types import Behavior, Item
from interest.write.prompts import PROMPTS, Answer, Style

pytestmark = pytest.mark.vllm

MARCH_1998 = 889_000_000.0
KINDS = (("Drama",), ("Comedy", "Drama"), ("Thriller",), ("Horror", "Thriller"))
CATALOGUE = {
    str(number): Item(item_id=str(number), title=f"Film {number}", categories=KINDS[number % 4], attributes={})
    for number in range(20)
}


@pytest.fixture
def model(vllm: Server) -> HttpModel:
    return HttpModel(vllm.url, model=vllm.name, key=vllm.key)


def ask(model: HttpModel, *requests: Request) -> list[Reply]:
    async def together() -> list[Reply]:
        return await asyncio.gather(*(model(one) for one in requests))

    return asyncio.run(together())


def said(content: str, **changes: object) -> Request:
    values: dict[str, object] = {"messages": (Message("user", content),), "max_tokens": 8}
    return Request(**(values | changes))  # type: ignore[arg-type]


def partition(first: int) -> Facts:
    """The facts of a partition of ten ratings."""
    behaviors = [
        (seq, Behavior(user_id="u", item_id=str(seq % 20), action="rate", at=MARCH_1998 + seq, value=1.0 + seq % 5))
        for seq in range(first, first + 10)
    ]
    return facts_of(behaviors, CATALOGUE, None)


def served(vllm: Server) -> float:
    """Requests answered, as the server counts them."""
    with urllib.request.urlopen(f"{vllm.url}/metrics") as answer:
        text = answer.read().decode()
    return sum(float(count) for count in re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", text, re.MULTILINE))


def test_an_answer_obeys_its_schema(model: HttpModel) -> None:
    """A schema that the model would not follow by itself: one of three words and a number of one digit."""
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["mauve", "ochre", "teal"]}, "grade": {"enum": [7, 8, 9]}},
        "required": ["colour", "grade"],
        "additionalProperties": False,
    }
    asked = [said(question, max_tokens=40, schema=json.dumps(schema)) for question in ("Say hello.", "What is 2 + 2?")]
    for reply in ask(model, *asked):
        answer = json.loads(reply.text)
        assert reply.finish_reason == "stop"
        assert answer["colour"] in ("mauve", "ochre", "teal")
        assert answer["grade"] in (7, 8, 9)


def test_the_prompts_for_capable_models_are_answered_in_their_schema(model: HttpModel) -> None:
    """json-1 as the cascade sends it: summaries, greedy and sampled, and a shift."""
    prompt, style = PROMPTS["json-1"], Style(noun=("film", "films"))
    before, now = partition(0), partition(3)
    requests = [prompt.summary(before, None, 0, style), prompt.summary(now, None, 1, style)]
    shift = prompt.shift(before, now, "The user likes dramas.", "The user likes comedies.", 0, style)
    requests.append(msgspec.structs.replace(shift, max_tokens=64))  # SmolLM2 rambles here
    replies = ask(model, *requests)
    for reply in replies:
        assert re.match(r'\{"evidence":\[(-?\d+,?){0,10}\],"text":"', reply.text)
    whole = [reply.text for reply in replies if reply.finish_reason == "stop"]
    assert whole  # a weak model may ramble to the limit, not in all three
    for text in whole:
        msgspec.json.decode(text, type=Answer)


def test_schemas_cost_no_tokens_for_whitespace(model: HttpModel) -> None:
    """With blanks allowed SmolLM2 wrote them until it was cut off (README of deploy/vllm)."""
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1]}, "b": {"enum": [2]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    (reply,) = ask(model, said("Give me the object.", max_tokens=40, schema=json.dumps(schema)))
    assert reply.text == '{"a":1,"b":2}'


def test_the_token_limit_is_told(model: HttpModel) -> None:
    (reply,) = ask(model, said("Count to one hundred.", max_tokens=5))
    assert (reply.finish_reason, reply.completion_tokens) == ("length", 5)


def test_a_prompt_longer_than_the_context_is_refused(model: HttpModel) -> None:
    with pytest.raises(Refused, match=r"400.*context length is 2048") as refused:
        ask(model, said("red " * 3000))
    assert not isinstance(refused.value, Denied)  # of this request, not of the server


def test_a_model_that_is_not_served_is_refused_by_name(vllm: Server) -> None:
    with pytest.raises(Denied, match=r"404.*`gpt-9`.*does not exist.*" + NAME):
        ask(HttpModel(vllm.url, model="gpt-9", key=vllm.key), said("Hello."))


@pytest.mark.parametrize("key", ["sk-not-the-right-one", None])
def test_a_wrong_key_is_refused_and_not_shown(vllm: Server, key: str | None) -> None:
    model = HttpModel(vllm.url, model=vllm.name, key=key)
    with pytest.raises(Denied, match="401") as denied:
        ask(model, said("Hello."))
    with pytest.raises(Denied, match="401") as probed:
        asyncio.run(model.probe())
    assert "sk-" not in f"{denied.value} {probed.value}"


def test_a_server_that_is_well_is_told_by_a_probe(model: HttpModel) -> None:
    asyncio.run(model.probe())


def test_the_servers_log_has_no_key(model: HttpModel, vllm: Server) -> None:
    ask(model, said("Hello.", max_tokens=1))
    assert vllm.key is not None
    if vllm.log.exists():  # not where TEST_VLLM names a server
        assert vllm.key not in vllm.log.read_text()


def test_sixty_four_at_once_are_all_answered_each_its_own(model: HttpModel, vllm: Server) -> None:
    before = served(vllm)
    openings = [f"Colour number {number} is" for number in range(64)]
    requests = [said("Name a colour.", opening=opening, repetition_penalty=1.05) for opening in openings]
    replies = ask(model, *requests)
    assert [reply.text[: len(opening)] for reply, opening in zip(replies, openings, strict=True)] == openings
    assert served(vllm) - before == 64
