"""A tiny chat model, a log and a catalogue to adapt it to, and a short adaptation."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from fusion.adaptation.learn import LearnConfig
from fusion.adaptation.run import AdaptConfig, Source, adapt
from fusion.features.log import Log
from interest.types import Item
from tests.support.ctr_world import catalogue, log_of, random_rows
from tests.support.tiny_llm import save_llm

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>\n{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}assistant: {% endif %}"
END = "<|end|>"
ITEMS = 40


def chat_model(folder: Path, **changes: Any) -> Path:
    """A Llama with random weights that chats, a token for every byte and one for the end of a turn."""
    sizes = {"vocab_size": 257, "eos_token_id": 256, "num_hidden_layers": 2, "max_position_embeddings": 512}
    save_llm(folder, **(sizes | changes))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": END})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def films() -> dict[str, Item]:
    """The catalogue of the CTR tests, with a director in some rows."""
    made = catalogue(ITEMS)
    return {
        item_id: Item(
            item_id=item_id,
            title=item.title,
            categories=item.categories,
            attributes=item.attributes | ({"director": f"Person {at % 5}"} if at % 2 else {}),
        )
        for at, (item_id, item) in enumerate(made.items())
    }


def watched(seed: int = 3, users: int = 30) -> Log:
    return log_of(random_rows(seed, user_count=users, item_count=ITEMS), users, ITEMS)


def short(**changes: Any) -> AdaptConfig:
    """A few steps of every kind of document."""
    own = {"tokens": 4_000, "context": 256, "answers": 4, "held": 3, "learn": LearnConfig(batch=2, lr=1e-3)}
    return AdaptConfig(**(own | changes))


def adapted(base: Path, out: Path, config: AdaptConfig | None = None, source: Source | None = None, **more: Any) -> Any:
    """The record of a short adaptation."""
    quiet = {"shown": lambda *_: nullcontext(lambda _: None), "say": lambda _: None}
    return adapt(source or Source(watched(), films()), base, out, config or short(), **(quiet | more))
