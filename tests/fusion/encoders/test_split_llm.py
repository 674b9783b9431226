"""A split LLM: lower then upper layers are the LLM, the upper layers obey their laws, what is frozen stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from fusion.encoders.behavior_text import Template
from fusion.encoders.lora import LoraLinear, add_lora
from fusion.encoders.recipe import NO_SINK, Recipe
from fusion.encoders.split_llm import (
    PACKED_ITEMS,
    UpperLayers,
    architecture,
    check_same_llm,
    open_lower_layers,
    recipe_of,
    set_weights,
    sink_token,
    upper_weights,
)
from interest.errors import ArtifactError, InputError
from interest.llm.transformers import load_whole
from tests.support.tiny_llm import LAYERS, WIDTH, save_llm, save_tokenizer

SECOND = "Murder in the First (1995), Drama, Thriller"  # SmolLM2 makes its first token a second sink
TEXTS = ["rated 5: Toy Story (1995), Animation, Comedy", "rated 1: Heat", "x", "rated 3: Ünïcode – 音楽, Drama"]
CLOSE = 1e-5


def led(ids: torch.Tensor, sink: int) -> torch.Tensor:
    """Token ids (B, T) with the sink before them."""
    return torch.nn.functional.pad(ids, (1, 0), value=sink)


def high_of(folder: Path, cut: int, **options: object) -> UpperLayers:
    upper = UpperLayers(architecture(folder), cut, **options)  # type: ignore[arg-type]
    set_weights(upper, upper_weights(folder, cut))
    return upper.eval()


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_lower_then_upper_layers_are_the_llm(kind: str, tmp_path: Path) -> None:
    folder = save_llm(tmp_path / kind, kind=kind)
    whole = load_whole(AutoModelForCausalLM, folder).model.eval()
    for cut in range(LAYERS + 1):
        lower = open_lower_layers(folder, recipe_of(folder, cut))
        for text in TEXTS:
            ids = torch.tensor(lower.tokens([text]))
            with torch.no_grad():
                expected = whole(input_ids=led(ids, lower.recipe.sink)).last_hidden_state[:, 1:]
                torch.testing.assert_close(high_of(folder, cut).states(lower.states(ids)), expected, atol=CLOSE, rtol=0)


@pytest.mark.model
@pytest.mark.parametrize("cut", [10, 15])
def test_lower_then_upper_layers_are_smollm(llm_folder: Path, cut: int) -> None:
    lower = open_lower_layers(llm_folder, recipe_of(llm_folder, cut))
    ids = torch.tensor(lower.tokens(TEXTS[:1]))
    whole = load_whole(AutoModelForCausalLM, llm_folder, dtype=torch.float32).model.eval()
    with torch.no_grad():
        expected = whole(input_ids=led(ids, lower.recipe.sink)).last_hidden_state[:, 1:]
        torch.testing.assert_close(high_of(llm_folder, cut).states(lower.states(ids)), expected, atol=1e-3, rtol=1e-3)


def test_a_further_sink_in_a_text_is_left_out_of_its_mean(tmp_path: Path) -> None:
    """A token whose state is far longer than those beside it says nothing of the text but would be all of its mean."""
    folder = save_llm(tmp_path / "sinks")
    model = load_whole(AutoModelForCausalLM, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    massive = tokenizer("M")["input_ids"][0]
    with torch.no_grad():
        model.model.embed_tokens.weight[massive] *= 100.0
    model.save_pretrained(folder)
    lower = open_lower_layers(folder, recipe_of(folder, 2))
    states = lower.states(torch.tensor(lower.tokens(["Moon"])))[0].numpy()
    np.testing.assert_allclose(lower(["Moon"])[0], states[1:].mean(axis=0), atol=CLOSE)
    np.testing.assert_allclose(
        lower(["MMMM"])[0], lower.states(torch.tensor([[massive] * 4]))[0].mean(dim=0), rtol=1e-5
    )


@pytest.mark.model
def test_smollms_sink_takes_what_no_vector_should_hold(llm_folder: Path) -> None:
    """Above the layers where the sink comes about: its largest dimension is beyond a thousand, no text's is."""
    lower = open_lower_layers(llm_folder, recipe_of(llm_folder, 20))
    assert lower.recipe.sink == architecture(llm_folder)["bos_token_id"]
    assert upper_weights(llm_folder, 20)["sink"].abs().max() > 10_000
    assert np.abs(lower([*TEXTS, SECOND])).max() < 1_000


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_texts_vector_is_its_pooled_states_and_does_not_depend_on_its_company(llm: Path, pooling: str) -> None:
    lower = open_lower_layers(llm, recipe_of(llm, 2, pooling=pooling))  # type: ignore[arg-type]
    model, tokenizer = load_whole(AutoModel, llm).eval(), AutoTokenizer.from_pretrained(llm)
    together = lower(TEXTS * 5)
    for text, vector in zip(TEXTS * 5, together, strict=True):
        assert np.array_equal(lower([text])[0], vector)
    for text, vector in zip(TEXTS, together, strict=False):
        with torch.no_grad():
            ids = led(tokenizer(text, return_tensors="pt")["input_ids"], lower.recipe.sink)
            states = model(input_ids=ids, output_hidden_states=True).hidden_states[2][0, 1:]
        expected = states.mean(dim=0) if pooling == "mean" else states[-1]
        np.testing.assert_allclose(vector, expected.numpy(), atol=CLOSE)


def test_batches_on_a_gpu_are_of_as_many_tokens_whatever_their_length(
    llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen on a CPU: a vector does not depend on its company there either, and is near what a CPU's batches give."""
    usual, gpu = (open_lower_layers(llm, recipe_of(llm, 2)) for _ in range(2))
    monkeypatch.setattr(gpu, "_gpu", True)
    assert (usual.rows(8), usual.rows(64), usual.batch_texts) == (8, 8, 64)
    assert (gpu.rows(16), gpu.rows(64), gpu.batch_texts) == (1024, 256, 8192)
    monkeypatch.setattr("fusion.encoders.split_llm.TOKENS_CUDA", 192)
    states, shapes = gpu.states, list[tuple[int, ...]]()
    monkeypatch.setattr(gpu, "states", lambda ids: (shapes.append(tuple(ids.shape)), states(ids))[1])
    texts = [text[:n] for n in range(1, 45) for text in TEXTS]
    together = gpu(texts)
    assert set(shapes) == {(192 // length, length) for length in (8, 16, 24, 32, 40, 48)}
    for place in range(0, len(texts), 17):
        assert np.array_equal(gpu(texts[place : place + 1])[0], together[place])
    np.testing.assert_allclose(together, usual(texts), atol=CLOSE)


def test_bfloat16_is_near_float32(llm: Path) -> None:
    exact = open_lower_layers(llm, recipe_of(llm, 2))(TEXTS)
    rough = open_lower_layers(llm, recipe_of(llm, 2, precision="bfloat16"))(TEXTS)
    assert 0 < np.abs(rough - exact).max() < 0.02 * np.abs(exact).max()  # bfloat16 has 8 bits


def test_long_texts_are_cut_and_too_large_states_are_told(llm: Path, tmp_path: Path) -> None:
    lower = open_lower_layers(llm, recipe_of(llm, 2))
    assert np.array_equal(lower(["a" * 64])[0], lower(["a" * 200])[0])
    folder = save_llm(tmp_path / "large")
    model = load_whole(AutoModelForCausalLM, folder)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1e6)
    model.save_pretrained(folder)
    with pytest.raises(ArtifactError, match="cut at an earlier layer"):
        open_lower_layers(folder, recipe_of(folder, 1))(["a"])


def test_whatever_changes_a_vector_changes_the_key(llm: Path, tmp_path: Path) -> None:
    base = recipe_of(llm, 2)
    weights = recipe_of(save_llm(tmp_path / "tiny", seed=1), 2)
    shutil.copytree(llm, tmp_path / "swapped" / "tiny")
    save_tokenizer(tmp_path / "swapped" / "tiny", swap=True)
    tokenizer = recipe_of(tmp_path / "swapped" / "tiny", 2)
    rope = recipe_of(save_llm(tmp_path / "rope", rope_parameters={"rope_type": "default", "rope_theta": 500.0}), 2)
    others = [
        weights,
        tokenizer,
        rope,
        recipe_of(llm, 3),
        recipe_of(llm, 2, pooling="last"),
        recipe_of(llm, 2, precision="bfloat16"),
        recipe_of(llm, 2, template=Template(behavior="{title} {value}")),
        msgspec.structs.replace(base, max_tokens=32),
        msgspec.structs.replace(base, sink=7),
        msgspec.structs.replace(base, version=base.version + 1),
    ]
    assert weights.llm != base.llm
    keys = [recipe.keys(["rated 5: Heat"])[0] for recipe in (base, *others)]
    assert len(set(keys)) == len(keys)
    shutil.copytree(llm, tmp_path / "moved")
    assert recipe_of(tmp_path / "moved", 2).keys(TEXTS) == base.keys(TEXTS)
    check_same_llm(tmp_path / "moved", base)
    for folder, what in ((tmp_path / "tiny", "weights"), (tmp_path / "swapped" / "tiny", "tokenizer")):
        with pytest.raises(ArtifactError, match=f"its {what} differ"):
            check_same_llm(folder, base)
    with pytest.raises(ArtifactError, match=r"vectors of version 0; here they are of version \d+; train anew"):
        check_same_llm(llm, msgspec.structs.replace(base, version=0))
    with pytest.raises(ArtifactError, match="train anew"):
        open_lower_layers(llm, msgspec.structs.replace(base, sink=NO_SINK, version=0))


def test_what_cannot_be_cut_is_told(llm: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no language model at"):
        recipe_of(tmp_path / "nowhere")
    with pytest.raises(InputError, match="between 0 and 4, not 5"):
        recipe_of(llm, 5)
    sliding = save_llm(tmp_path / "sliding", kind="mistral", sliding_window=8)
    with pytest.raises(InputError, match="sliding window"):
        recipe_of(sliding)
    shutil.copytree(llm, tmp_path / "bare")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / file).unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        recipe_of(tmp_path / "bare")
    assert recipe_of(llm).cut == LAYERS // 2


def test_the_sink_is_what_the_llm_begins_texts_with() -> None:
    own = {"vocab_size": 10, "bos_token_id": 3, "eos_token_id": [4, 5]}
    assert sink_token(own) == 3
    assert sink_token(own | {"bos_token_id": None}) == 4
    assert sink_token(own | {"bos_token_id": 10, "eos_token_id": None}) == 0  # there is no such token
    assert sink_token({"vocab_size": 10}) == 0


def test_every_sequence_begins_with_the_sinks_own_state(llm: Path, tmp_path: Path) -> None:
    """The state that the token has after layer k in front of whatever follows; the next layers see it, no pool does."""
    folder = save_llm(tmp_path / "bos", bos_token_id=65)
    model, lower = load_whole(AutoModel, folder).eval(), open_lower_layers(folder, recipe_of(folder, 2))
    assert lower.recipe.sink == 65
    upper = high_of(folder, 2)
    with torch.no_grad():
        states = model(torch.tensor([[65, *lower.tokens(TEXTS[:1])[0]]]), output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(upper.sink, states[0, 0], atol=CLOSE, rtol=0)
        x, there = sequences()
        before = upper(x, there)
        upper.sink.mul_(-3.0)
        assert (upper(x, there)[:2] - before[:2]).abs().max() > 1e-3
        whole = UpperLayers(architecture(folder), 4)  # no layer is left: the pool of the norm alone
        set_weights(whole, upper_weights(folder, 4))
        made, read = whole(x, there)[0].split(WIDTH)
        torch.testing.assert_close(made, whole.norm(x[0]).mean(dim=0))
        torch.testing.assert_close(read, x[0].mean(dim=0))
    assert "sink" not in dict(upper.named_parameters())


def sequences(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three sequences of 5, 2 and 0 elements, and which elements there are."""
    torch.manual_seed(seed)
    x, there = torch.randn(3, 5, WIDTH), torch.zeros(3, 5, dtype=torch.bool)
    there[0], there[1, :2] = True, True
    return x, there


@pytest.mark.parametrize("mask", ["causal", "bidirectional"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
@torch.no_grad()
def test_padding_changes_nothing(llm: Path, mask: str, pooling: str) -> None:
    upper = high_of(llm, 2, mask=mask, pooling=pooling)
    x, there = sequences()
    expected = upper(x, there)
    assert expected[2].abs().max() == 0  # nothing there
    other = torch.where(there[..., None], x, torch.full_like(x, 7.0))
    torch.testing.assert_close(upper(other, there), expected)
    pad = torch.nn.functional.pad
    torch.testing.assert_close(upper(pad(x, (0, 0, 0, 4), value=3.0), pad(there, (0, 4))), expected, atol=CLOSE, rtol=0)
    torch.testing.assert_close(upper(x[1:2, :2], there[1:2, :2])[0], expected[1], atol=CLOSE, rtol=0)


@torch.no_grad()
def test_positions_are_those_of_behaviours(llm: Path) -> None:
    """The first follows the sink, as the LLM's tokens do; the order matters; distances are what counts."""
    whole = load_whole(AutoModel, llm).eval()
    x, _ = sequences()
    upper = high_of(llm, 0)  # every layer: the LLM reading vectors in the place of embeddings
    after = torch.cat([whole.embed_tokens(torch.zeros(1, 1, dtype=torch.long)), x[:1]], dim=1)
    torch.testing.assert_close(upper.states(x[:1]), whole(inputs_embeds=after).last_hidden_state[:, 1:], atol=0, rtol=0)
    far = whole(inputs_embeds=after, position_ids=torch.arange(6)[None] + 100).last_hidden_state[:, 1:]
    torch.testing.assert_close(upper.states(x[:1]), far, atol=1e-4, rtol=1e-4)
    there = torch.ones(1, 5, dtype=torch.bool)
    for mask in ("causal", "bidirectional"):
        upper = high_of(llm, 2, mask=mask)
        assert (upper(x[:1], there) - upper(x[:1].flip(1), there)).abs().max() > 1e-3


@torch.no_grad()
def test_the_mask_is_what_it_says(llm: Path) -> None:
    x, _ = sequences()
    later = x[:1].clone()
    later[0, 3:] = 5.0
    causal, both = high_of(llm, 2), high_of(llm, 2, mask="bidirectional")
    torch.testing.assert_close(causal.states(later)[0, :3], causal.states(x[:1])[0, :3])
    seen = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    assert (both.states(later, seen)[0, :3] - both.states(x[:1], seen)[0, :3]).abs().max() > 1e-3


@pytest.mark.parametrize("mask", ["causal", "bidirectional"])
@pytest.mark.parametrize("count", [1, 5, PACKED_ITEMS, PACKED_ITEMS + 3])
@torch.no_grad()
def test_sequences_of_one_that_go_abreast_do_not_see_each_other(llm: Path, mask: str, count: int) -> None:
    torch.manual_seed(0)
    x, upper = torch.randn(count, WIDTH), high_of(llm, 1, mask=mask)
    expected = upper(x[:, None], torch.ones(count, 1, dtype=torch.bool))[:, :WIDTH]
    torch.testing.assert_close(upper.encode_items(x), expected, atol=CLOSE, rtol=0)


def gradients(upper: UpperLayers, x: torch.Tensor, there: torch.Tensor) -> dict[str, torch.Tensor]:
    upper.train()
    upper.zero_grad()
    upper(x, there).square().sum().backward()
    return {name: weight.grad.clone() for name, weight in upper.named_parameters() if weight.grad is not None}


def test_checkpointing_changes_no_gradient(llm: Path) -> None:
    kept, again = high_of(llm, 1), high_of(llm, 1, checkpointing=True)
    x, there = sequences()
    expected, made = gradients(kept, x, there), gradients(again, x, there)
    assert expected.keys() == made.keys()
    assert len(expected) == len(list(kept.parameters()))
    for name, gradient in expected.items():
        torch.testing.assert_close(made[name], gradient)


def test_bfloat16_training_is_near_and_its_weights_stay_float32(llm: Path) -> None:
    x, there = sequences()
    exact, rough = high_of(llm, 2), high_of(llm, 2, precision="bfloat16")
    with torch.no_grad():
        assert 0 < (exact(x, there) - rough(x, there)).abs().max() < 0.1
    assert all(gradient.dtype == torch.float32 for gradient in gradients(rough, x, there).values())


def test_lora_begins_as_the_llm_and_trains_and_saves_only_differences(llm: Path) -> None:
    x, there = sequences()
    plain, upper = high_of(llm, 2), UpperLayers(architecture(llm), 2)
    add_lora(upper, rank=4, alpha=8.0)
    set_weights(upper, upper_weights(llm, 2))
    with torch.no_grad():
        torch.testing.assert_close(upper(x, there), plain(x, there))
    assert all(name.endswith((".up", ".down")) for name, _ in upper.named_parameters())
    assert set(upper.state_dict()) == {"sink", *(name for name, _ in upper.named_parameters())}
    held = {name: value.clone() for name, value in upper.named_buffers()}
    optimizer = torch.optim.SGD(upper.parameters(), lr=0.1)
    for _ in range(2):  # in the first step only B moves, for it is zero
        found = gradients(upper, x, there)
        optimizer.step()
    assert all(gradient.abs().max() > 0 for gradient in found.values())
    assert all(torch.equal(value, held[name]) for name, value in upper.named_buffers())
    layer = upper.layers[0].mlp.up_proj
    assert isinstance(layer, LoraLinear)
    merged = torch.nn.functional.linear(x, layer.weight + layer.scale * layer.up @ layer.down)
    torch.testing.assert_close(layer(x), merged, atol=CLOSE, rtol=1e-4)


def test_recipes_come_back_from_json(llm: Path) -> None:
    recipe = recipe_of(llm, 1, pooling="last")
    again = msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe)
    assert again == recipe
    assert again.id == recipe.id
