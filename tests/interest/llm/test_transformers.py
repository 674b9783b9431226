"""Models of transformers load from several threads at once, and whole or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from fusion.encoders.causal_lm import load_llm
from interest.errors import ArtifactError, InputError
from interest.llm.local import LocalModel
from interest.llm.transformers import load_whole
from tests.support.tiny_llm import save_llm


def test_models_loaded_side_by_side_answer_as_one_loaded_alone(tmp_path: Path) -> None:
    """Their output weights are tied to the embeddings; without a lock one of these loads would leave them unset."""
    folder = save_llm(tmp_path / "tied", tie_word_embeddings=True, num_hidden_layers=12)
    ids = torch.arange(8)[None]
    expected = load_whole(AutoModelForCausalLM, folder).eval()(ids).logits
    with ThreadPoolExecutor(6) as threads:
        kinds = [AutoModelForCausalLM, AutoModel] * 15
        models = list(threads.map(lambda kind: load_whole(kind, folder), kinds))
    for model in models[::2]:
        assert model.lm_head.weight is model.model.embed_tokens.weight
        torch.testing.assert_close(model.eval()(ids).logits, expected)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    folder = save_llm(tmp_path / "short")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"short does not load: it lacks the weights model\.layers\.1\.mlp"):
        LocalModel(folder)
    with pytest.raises(ArtifactError, match=r"short cannot be loaded.*it lacks the weights layers\.1\.mlp"):
        load_llm(folder, torch.float32)
