"""A tiny BERT with random weights, saved as a real sentence encoder, and a log whose users like one word or another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from fusion.features.log import Log
from interest.llm.transformers import LOADING
from tests.support.ctr_world import DAY, log_of

COLOURS = ("red", "blue", "green", "black")
NAMES = 12  # items of a colour
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def texts() -> list[str]:
    """Of 48 items: the items of a colour have that word in common, and all four of one name the name."""
    return [f"{colour} n{name}" for name in range(NAMES) for colour in COLOURS]


def save_encoder(folder: Path, *, kind: str = "bert") -> Path:
    """A checkpoint of two layers of width 32, which knows these texts' words."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    own = {"dim": 32, "n_layers": 2, "hidden_dim": 64, "n_heads": 2} if kind == "distilbert" else sizes
    torch.manual_seed(0)
    with LOADING:
        model = AutoModel.from_config(AutoConfig.for_model(kind, vocab_size=64, initializer_range=0.2, **own))
    model.save_pretrained(folder)
    words = (*SPECIAL, *COLOURS, *(f"n{name}" for name in range(NAMES)))
    vocab = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocab[name]) for name in ("[CLS]", "[SEP]")]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder


def colour_log(users: int = 80, each: int = 14) -> Log:
    """Every user likes the items of one colour, rates them 5, and the others 1."""
    rng, rows = np.random.default_rng(0), []
    for user in range(users):
        for at, item in enumerate(rng.permutation(len(COLOURS) * NAMES)[:each].tolist()):
            rows.append((user, item, (user + at) * DAY, 5.0 if item % 4 == user % 4 else 1.0))
    return log_of(rows, users, len(COLOURS) * NAMES)
