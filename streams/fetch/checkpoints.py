"""Model checkpoints that need work before transformers can use them quickly: a GGUF file becomes a bf16 checkpoint.

torch and transformers are imported inside: the command line must start without them.
"""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from interest.errors import InputError
from interest.llm.transformers import LOADING


def convert_gguf(unpacked: Path, result: Path) -> None:
    """Make the one .gguf file in `unpacked` a transformers checkpoint in `result`: bf16 weights, tokenizer, template.

    transformers reads GGUF itself, but slowly (it dequantises on every load) and with a tokenizer that ends
    its sentences at the wrong token; both are set right here, once.
    """
    try:
        import gguf  # noqa: F401  (transformers needs it)
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed and the LLM needs it: pip install 'interestream[models]'"
        ) from None

    (file,) = unpacked.rglob("*.gguf")
    folder = str(file.parent)
    loader: Any = AutoModelForCausalLM
    with LOADING, redirect_stderr(StringIO()):  # its own progress bars
        loaded = loader.from_pretrained(folder, gguf_file=file.name, local_files_only=True, dtype=torch.bfloat16)
    if hasattr(loaded.config, "quantization_config"):
        del loaded.config.quantization_config  # the weights are plain bf16 by now; with it save_pretrained refuses
    with LOADING:
        model = loader.from_config(loaded.config, dtype=torch.bfloat16)
        model.load_state_dict(loaded.state_dict(), strict=True)
        model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name, local_files_only=True)
    _repair_tokenizer(tokenizer, model.config)
    with redirect_stderr(StringIO()):
        model.save_pretrained(result)
    tokenizer.save_pretrained(result)
    for saved in result.iterdir():
        saved.chmod(0o644)  # safetensors writes 0600; a cache may be shared


def _repair_tokenizer(tokenizer: Any, config: Any) -> None:
    """Make the tokenizer what its authors published it: reading it from the GGUF header loses something.

    Its end and padding tokens come from the model's config; digits are split one by one before the byte-level rule
    (the header says `pre = smollm`, which transformers does not know); decoding adds and removes no space.
    """
    from tokenizers import decoders, pre_tokenizers

    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(config.eos_token_id)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    if not tokenizer.chat_template:
        raise InputError("the GGUF file has no chat template; name an instruction-tuned model")
