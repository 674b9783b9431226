"""Tiny causal LLMs with random weights, saved as real checkpoints: four layers of width 32, a token for every byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from interest.llm.transformers import LOADING

WIDTH, LAYERS = 32, 4


def save_llm(folder: Path, *, seed: int = 0, kind: str = "llama", **changes: Any) -> Path:
    """A checkpoint in `folder`; another seed gives other weights."""
    sizes: dict[str, Any] = {
        "num_hidden_layers": LAYERS,
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 256,
        "initializer_range": 0.2,  # at the usual 0.02 nothing that a layer does would show
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if kind == "mistral":
        sizes["sliding_window"] = None
    config = AutoConfig.for_model(kind, **(sizes | changes))
    torch.manual_seed(seed)
    with LOADING:
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path, *, swap: bool = False) -> None:
    """A token for every byte; with `swap` two of them change places."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    if swap:
        letters[0], letters[1] = letters[1], letters[0]
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
