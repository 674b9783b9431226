"""The int8 form of a checkpoint: made once, asked as transformers is asked, and told about where it cannot be had."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from interest.errors import InputError
from interest.llm.int8 import Int8Model
from interest.llm.protocol import Message, Reply, Request
from streams.fetch.int8 import int8_weights
from streams.resolve.llm import open_llm
from tests.support.tiny_llm import save_llm

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
OPENINGS = ("a", "an", "the letters are")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INTERESTREAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def chatting(folder: Path, kind: str = "llama") -> Path:
    # at 0.2 sums of products leave 16 bits, in which processors without VNNI hold them
    save_llm(folder, kind=kind, tie_word_embeddings=False, initializer_range=0.1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def ask(model: Int8Model, *openings: str, temperature: float = 0.0) -> list[Reply]:
    asked = [
        Request(
            messages=(Message("user", "Hello"),), opening=own, max_tokens=8, temperature=temperature, top_p=1.0, seed=3
        )
        for own in openings
    ]

    async def together() -> list[Reply]:
        return await asyncio.gather(*(model(request) for request in asked))

    return asyncio.run(together())


def test_the_checkpoint_is_converted_once_and_read_in_its_own_tokens(cache: Path, tmp_path: Path) -> None:
    folder = chatting(tmp_path / "tiny")
    said: list[str] = []
    weights = int8_weights(folder, say=said.append)
    assert len(said) == 2
    assert weights.is_relative_to(cache)
    assert int8_weights(folder, say=said.append) == weights
    assert len(said) == 2
    replies = ask(Int8Model(folder, weights), *OPENINGS)
    costs = [(reply.prompt_tokens, reply.completion_tokens) for reply in replies]
    assert costs == [(len("user: Hello\n") + len(own), 8) for own in OPENINGS]
    assert [reply.text.startswith(own) for reply, own in zip(replies, OPENINGS, strict=True)] == [True] * 3
    assert ask(Int8Model(folder, weights), *OPENINGS) == replies


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_an_answer_begins_the_same_whatever_shorter_prompts_it_is_decoded_beside(
    cache: Path, tmp_path: Path, temperature: float
) -> None:
    folder = chatting(tmp_path / "tiny")
    model = Int8Model(folder, int8_weights(folder, say=print))
    together = ask(model, *OPENINGS, temperature=temperature)
    alone = [reply for own in OPENINGS for reply in ask(model, own, temperature=temperature)]
    starts = [
        [reply.text[: len(own) + 1] for reply, own in zip(some, OPENINGS, strict=True)] for some in (together, alone)
    ]
    assert starts[0] == starts[1]
    assert [reply.completion_tokens for reply in together] == [8, 8, 8]


def test_weights_that_do_not_load_are_told(cache: Path, tmp_path: Path) -> None:
    folder = chatting(tmp_path / "tiny")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"the int8 weights at .*none do not load"):
        Int8Model(folder, tmp_path / "none")


def test_without_ctranslate2_int8_is_refused_and_auto_takes_transformers(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = chatting(tmp_path / "tiny")
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with (
        pytest.raises(InputError, match=r"ctranslate2 is not installed.*pip install 'interestream\[models\]'"),
        open_llm(str(folder), backend="int8"),
    ):
        pass
    with open_llm(str(folder), backend="auto") as opened:
        assert not opened.name.endswith(":int8")


def test_a_family_without_a_conversion_runs_on_transformers(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = chatting(tmp_path / "tiny", "olmo")
    with pytest.raises(InputError, match="cannot be converted to int8"), open_llm(str(folder), backend="int8"):
        pass
    with open_llm(str(folder), backend="auto") as opened:
        assert not opened.name.endswith(":int8")
    assert "transformers runs it instead" in capsys.readouterr().err
    assert not any((cache / "int8").glob("tiny*"))


def test_the_setting_chooses_the_backend(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = chatting(tmp_path / "tiny")
    for setting, int8 in (("transformers", False), ("int8", True)):
        monkeypatch.setenv("INTERESTREAM_LLM_BACKEND", setting)
        with open_llm(str(folder)) as opened:
            assert opened.name.endswith(":int8") is int8
