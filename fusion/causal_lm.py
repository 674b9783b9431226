"""Opens a causal LLM's folder with transformers, or makes its layers without weights; transformers is imported then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from interest.errors import ArtifactError, InputError
from interest.loading import LOADING, load_whole


def load(folder: Path, dtype: torch.dtype) -> Any:
    """The whole LLM, for inference. Raises ArtifactError where the folder cannot be loaded."""
    try:
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install 'interestream[models]'") from None
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with LOADING:  # the verbosity is everyone's too
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # that the head is left out is as it should be
        try:
            model = load_whole(AutoModel, folder, dtype=dtype, attn_implementation="sdpa")
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(f"{folder} cannot be loaded as a language model: {error}") from error
        finally:
            logging.set_verbosity(verbosity)
    return model.eval().requires_grad_(requires_grad=False)


def shell(own: dict[str, Any], layers: int) -> Any:
    """A model of so many layers with fresh weights and no vocabulary to speak of. own: an LLM's config.json."""
    from transformers import AutoConfig, AutoModel

    change = {"num_hidden_layers": max(layers, 1), "vocab_size": 1, "layer_types": None}
    change |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    kept = {name: value for name, value in own.items() if name not in ("dtype", "torch_dtype")}
    config = AutoConfig.for_model(**(kept | change))
    of: Any = AutoModel.from_config
    with LOADING:
        model = of(config, attn_implementation="sdpa", dtype=torch.float32)
    model.layers = model.layers[:layers]
    return model
