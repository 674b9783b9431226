"""Replay of general text: the base model's own answers to questions of every sort, in its own chat format.

Continual pre-training on one domain makes a model forget the rest. What it was trained on is not at hand, so that it is
asked itself before anything is learnt; a part of what it says is held out, and its perplexity is measured before and
after.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from fusion.adaptation.document import Document, Kind, dialogue
from interest.errors import ArtifactError

BATCH = 24  # a step reads all weights whatever their number; more, and a slow machine shows no progress for minutes
MAX_TOKENS = 128
TOP_P, TEMPERATURE = 0.95, 0.8
NAME = "general.json"
FORMS = (
    "Explain {} in a few sentences.",
    "Write a short paragraph about {}.",
    "What should everyone know about {}?",
    "Give three facts about {}.",
    "Write a short dialogue about {}.",
    "What is a common mistake about {}?",
    "Write the beginning of a story about {}.",
    "Summarise the history of {} in two sentences.",
)
TOPICS = (
    "the water cycle", "fractions", "bread", "the moon", "bicycles", "gravity", "a rainy day", "bees", "maps", "sleep",
    "friendship", "volcanoes", "chess", "the alphabet", "electricity", "gardening", "rivers", "the Roman Empire",
    "prime numbers", "tea", "photography", "trains", "vaccines", "poetry", "a lost key", "clouds", "democracy", "paper",
    "sorting a list", "whales", "money", "glass", "running", "the human heart", "winter", "libraries", "soap",
    "negotiation", "bridges", "the printing press", "spiders", "a first day at work", "recycling", "clocks", "honesty",
    "forests", "the internet", "salt", "drums", "coral reefs",
)  # fmt: skip


def questions(count: int) -> list[str]:
    """Distinct questions, at most len(FORMS) x len(TOPICS), every topic before any comes again."""
    pairs = [(form, topic) for form in range(len(FORMS)) for topic in range(len(TOPICS))]
    return [FORMS[(form + topic) % len(FORMS)].format(TOPICS[topic]) for form, topic in pairs[:count]]


def general_documents(pairs: list[tuple[str, str]]) -> list[Document]:
    return [Document(kind=Kind.GENERAL, pieces=dialogue(*pair), chat=True) for pair in pairs]


def sample_general(
    model: Any, tokenizer: Any, count: int, seed: int, folder: Path, advance: Callable[[int], None] = lambda _: None
) -> list[tuple[str, str]]:
    """Questions and the model's own sampled answers; empty ones are left out.

    They are kept in `folder` batch by batch, so that a run that goes on learns from the same ones. Sampling is seeded
    by batch.
    """
    path = folder / NAME
    asked = questions(count)
    held = _read(path, asked)
    advance(len(held))
    device = next(model.parameters()).device
    for start in range(len(held), len(asked), BATCH):
        some = asked[start : start + BATCH]
        torch.manual_seed(seed * 1_000_003 + start)
        held += list(zip(some, _answers(model, tokenizer, some, device), strict=True))
        partial = path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(held))
        partial.replace(path)
        advance(len(some))
    return [(question, answer) for question, answer in held if answer]


def _read(path: Path, asked: list[str]) -> list[tuple[str, str]]:
    if not path.exists():
        return []
    try:
        held = msgspec.json.decode(path.read_bytes(), type=list[tuple[str, str]])
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"{path} cannot be read ({error}); remove it to sample it anew") from None
    return [pair for pair, question in zip(held, asked, strict=False) if pair[0] == question]


@torch.no_grad()
def _answers(model: Any, tokenizer: Any, asked: list[str], device: torch.device) -> list[str]:
    """Sampled answers, decoded together; prompts are padded on the left."""
    prompts = [
        tokenizer(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
            ),
            add_special_tokens=False,
        )["input_ids"]
        for question in asked
    ]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    end = tokenizer.eos_token_id
    out = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=True, temperature=TEMPERATURE, top_p=TOP_P, top_k=0,
        max_new_tokens=MAX_TOKENS, pad_token_id=end if end is not None else 0,
    )  # fmt: skip
    written = tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
    stops = model.generation_config.eos_token_id  # one, several or none; it may stop at others than the tokenizer's
    stops = [*(stops if isinstance(stops, list) else [stops]), end]
    known = torch.tensor([token for token in stops if token is not None], dtype=out.dtype, device=device)
    ended = torch.isin(out[:, longest:], known).any(dim=1).tolist()
    return [(text if whole else up_to_a_sentence(text)).strip() for text, whole in zip(written, ended, strict=True)]


def up_to_a_sentence(text: str) -> str:
    """Without a last sentence that was cut off: learnt with the turn's end behind it, it would teach to stop there."""
    ends = [match.end() for match in re.finditer(r"[.!?][\"')]*(?=\s|$)", text)]
    return text[: ends[-1]] if ends else ""
