"""An LLM split after layer k (BAHE, section 3.1): frozen lower layers over texts, trained upper layers over behaviours.

`LowerLayers` is the embeddings and layers 1..k: a text becomes one vector, the mean of its tokens' states or the last
one's. `UpperLayers` is layers k + 1..n and the final norm: a sequence of such vectors is read as the LLM read tokens.
The lower layers have the positions in the text; the upper layers' rotary positions are 1, 2, 3... over behaviours,
oldest first. Their mask is causal, as the layers were pre-trained; bidirectional is an option.

LLMs make the first token of whatever they read an attention sink, which all others look at where they have nothing to
look for (Xiao et al., ICLR 2024; Sun et al., COLM 2024): its state has one dimension a thousand times as large as most
(SmolLM2 after layer 26: 24,800, where the median of a word is 7). So every text and every sequence of vectors begins
with a token of its own for that, at position 0, and no pooling sees it. What it is like after layer k depends on
nothing that follows. Where a text's first token becomes a second one (3.8 % of film titles), it is left out too.

Works for causal LLMs of transformers built like Llama. Knows nothing of users, banks or CTR. transformers is imported
when a model is opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fusion.encoders.behavior_text import Template
from fusion.encoders.causal_lm import FETCH_AGAIN, check_weights, init_layers, load_llm, load_tokenizer
from fusion.encoders.recipe import PLAIN, Recipe, TextPooling
from fusion.encoders.sentence import ROWS_CPU, Precision, batches, encoder_id
from interest.errors import ArtifactError, InputError
from interest.llm.gather import has_none, no_model

FAMILY = ("llama", "mistral", "qwen2", "qwen3")  # pre-norm decoder layers that take rotary embeddings from outside
VERSION = 1  # of everything below that can change a text's vector and is not a field of Recipe, FURTHER_SINK included
FURTHER_SINK = 4.0  # times the median length of a text's states; SmolLM2: other tokens' up to 2.2, sinks' 5.8 to 70
PACKED_ITEMS = 16  # items packed into one sequence behind one sink: a sixteenth of its cost each, and a small mask
TOKENS_CUDA = 16_384  # a batch, padding included: enough for matrix products to fill a large GPU
TEXTS_CPU, TEXTS_CUDA = 64, 8_192  # with a small LLM about a second of work on one core; on a GPU a batch a length
LARGEST = 65_504.0  # of float16, as which the bank keeps vectors
TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)

Mask = Literal["causal", "bidirectional"]
Architecture = dict[str, Any]  # what the LLM's config.json says of its layers


def recipe_of(
    folder: Path,
    cut: int | None = None,
    *,
    pooling: TextPooling = "mean",
    precision: Precision = "float32",
    template: Template = PLAIN,
) -> Recipe:
    """The recipe of an LLM's folder, from its files alone; `cut` None is half of its layers.

    Raises InputError where there is no LLM, where it is of another build, and where it has no such layer.
    """
    config = architecture(folder)
    layers = int(config["num_hidden_layers"])
    chosen = layers // 2 if cut is None else cut
    if not 0 <= chosen <= layers:
        raise InputError(f"{folder} has {layers} layers; --cut must be between 0 and {layers}, not {chosen}")
    template.check()
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not files:
        raise InputError(
            f"{folder} has no tokenizer, no tokenizer.json; {FETCH_AGAIN}, or give a whole checkpoint's folder"
        )
    check_weights(folder)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
    return Recipe(
        llm=encoder_id(folder),
        config=hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()[:12],
        tokenizer=digest.hexdigest()[:12],
        cut=chosen,
        pooling=pooling,
        precision=precision,
        sink=sink_token(config),
        template=template,
        version=VERSION,
    )


def sink_token(config: Architecture) -> int:
    """The attention sink: the LLM's token that begins a text, else the one that ends a text, else its first."""
    for name in ("bos_token_id", "eos_token_id"):
        token = config.get(name)
        chosen = token[0] if isinstance(token, list) and token else token
        if isinstance(chosen, int) and 0 <= chosen < int(config["vocab_size"]):
            return chosen
    return 0


def architecture(folder: Path) -> Architecture:
    """The LLM's config.json. Raises InputError where it is broken, or where the LLM cannot be split."""
    if has_none(folder):
        raise no_model(folder)
    try:
        config: Architecture = msgspec.json.decode((folder / "config.json").read_bytes())
        config |= {name: int(config[name]) for name in ("num_hidden_layers", "hidden_size", "vocab_size")}
    except (OSError, ValueError, TypeError, KeyError, msgspec.DecodeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
        raise InputError(
            f"{folder} is not a language model's folder: its config.json {reason}; {FETCH_AGAIN}"
        ) from None
    kind, types = config.get("model_type"), set(config.get("layer_types") or ["full_attention"])
    slides = config.get("sliding_window") and config.get("use_sliding_window", True)
    if kind not in FAMILY or types != {"full_attention"} or slides:
        raise InputError(
            f"{folder} holds a {kind} model{' with a sliding window' * bool(slides)}; what can be split are causal "
            f"models with full attention of the kinds {', '.join(FAMILY)}"
        )
    return {
        name: value for name, value in config.items() if not name.startswith("_") and name != "transformers_version"
    }


class LowerLayers:
    """The frozen lower layers of the LLM in memory: `lower(texts) -> (n, d)`.

    As with text encoders, a vector is the same to the last bit whatever it is computed with: lengths are rounded up to
    8 tokens, and each length has a fixed number of rows, as many as the device is quick with.
    """

    def __init__(self, model: Any, tokenizer: Any, recipe: Recipe, *, gpu: bool) -> None:
        self.recipe, self.width = recipe, int(model.config.hidden_size)
        self._embed, self._layers, self._rotary = model.embed_tokens, model.layers[: recipe.cut], model.rotary_emb
        self._tokenizer, self._gpu = tokenizer, gpu

    @property
    def batch_texts(self) -> int:
        """Texts that a filler of the bank claims and computes together."""
        return TEXTS_CUDA if self._gpu else TEXTS_CPU

    def rows(self, length: int) -> int:
        """Rows of a batch whose texts have at most `length` tokens."""
        return max(TOKENS_CUDA // length, 1) if self._gpu else ROWS_CPU

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, cut at the recipe's length, without special tokens."""
        most = self.recipe.max_tokens
        ids = self._tokenizer(list(texts), truncation=True, max_length=most, add_special_tokens=False)["input_ids"]
        return cast(list[list[int]], ids)

    @torch.no_grad()
    def states(self, ids: Tensor) -> Tensor:
        """Hidden states (B, T, d) after layer k of token ids (B, T); the sink in front of them is left out.

        Padding goes on the right: the mask is causal.
        """
        ids = nn.functional.pad(ids, (1, 0), value=self.recipe.sink)
        return run_layers(self._layers, self._rotary, self._embed(ids))[:, 1:]

    def __call__(self, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None) -> NDArray[np.float32]:
        """One vector a text, in the order given. `advance` is called with the texts of each finished batch.

        Raises ArtifactError where a state is too large for the bank's float16.
        """
        out = np.empty((len(texts), self.width), np.float32)
        if not texts:
            return out
        tokens = self.tokens(texts)
        for length, alike in batches([len(ids) for ids in tokens], len(tokens), self.recipe.max_tokens):
            rows = self.rows(max(length, 1))
            for start in range(0, len(alike), rows):
                chosen = alike[start : start + rows]
                out[chosen] = self._pool([tokens[position] for position in chosen], max(length, 1), rows)
                advance(len(chosen))
        if not np.abs(out).max() <= LARGEST:
            raise ArtifactError(
                f"{self.recipe.llm}: states after layer {self.recipe.cut} exceed what the bank's float16 holds; "
                "cut at an earlier layer"
            )
        return out

    def _pool(self, texts: list[list[int]], length: int, rows: int) -> NDArray[np.float32]:
        ids = torch.zeros((rows, length), dtype=torch.long)  # (B, T)
        sizes = torch.ones(rows, dtype=torch.long)
        for row, ids_of_text in enumerate(texts):
            ids[row, : len(ids_of_text)] = torch.tensor(ids_of_text)
            sizes[row] = max(len(ids_of_text), 1)
        device = self._embed.weight.device
        states, sizes = self.states(ids.to(device)).float(), sizes.to(device)
        if self.recipe.pooling == "mean":
            vectors = _mean_of_text(states, sizes)
        else:
            vectors = pool(states, sizes, self.recipe.pooling)
        pooled: NDArray[np.float32] = vectors.cpu().numpy()
        return pooled[: len(texts)]


class UpperLayers(nn.Module):
    """The LLM's upper layers, over vectors instead of tokens. Fresh weights; `set_weights` gives it an LLM's.

    The sink's state after layer k, in front of every sequence, is not trained. A pooled sequence has two halves: the
    pooled states of the last layer and the mean of the input vectors, so that nothing of the lower layers is lost.
    """

    sink: Tensor  # (d,)

    def __init__(
        self,
        config: Architecture,
        cut: int,
        *,
        mask: Mask = "causal",
        pooling: TextPooling = "mean",
        checkpointing: bool = False,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        model = init_layers(config, int(config["num_hidden_layers"]) - cut)
        self.layers, self.norm, self.rotary = model.layers, model.norm, model.rotary_emb
        self.width = int(model.config.hidden_size)
        self.register_buffer("sink", torch.zeros(self.width))
        self.mask, self.pooling, self.checkpointing, self.precision = mask, pooling, checkpointing, precision

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Pooled sequences (B, 2 d) of x (B, T, d), with `present` (B, T) bool true for each one's first elements.

        Zero for an empty sequence.
        """
        sizes = present.sum(dim=1)
        mask = None
        if self.mask == "bidirectional":
            mask = nn.functional.pad(present, (1, 0), value=True)[:, None, None].repeat(1, 1, 1 + present.shape[1], 1)
            mask[:, :, 0, 1:] = False  # the sink is what it was in pre-training, whatever follows
        size = sizes.clamp(min=1)
        pooled = torch.cat([pool(self.states(x, mask), size, self.pooling), pool(x, size, "mean")], dim=1)
        return pooled * (sizes > 0)[:, None]

    def prefixes(self, x: Tensor, row: Tensor, sizes: Tensor, newest: int | None = None) -> Tensor:
        """Pooled prefixes (S, 2 d): the first `sizes` (S,) elements of the sequences `row` (S,) of x (B, T, d).

        Zero for an empty prefix. The `newest` elements of a prefix are pooled, or all; their states have attended to
        the older ones too. A state knows nothing of later elements, so one pass serves all prefixes of a sequence.
        Raises ValueError where the mask is not causal.
        """
        if self.mask != "causal":
            raise ValueError(f"the prefixes of a sequence share a pass under a causal mask, not a {self.mask} one")
        states, last = self.states(x), (sizes - 1).clamp(min=0)
        first = (sizes - (newest or x.shape[1])).clamp(min=0)
        pooled_states = states[row, last] if self.pooling == "last" else _means(states, row, first, sizes)
        pooled = torch.cat([pooled_states, _means(x, row, first, sizes)], dim=1)
        return pooled * (sizes > 0)[:, None]

    def encode_items(self, x: Tensor) -> Tensor:
        """States (O, d) of O items x (O, d), each as a sequence of its own.

        PACKED_ITEMS share one sink, all at position 1, and none attends to another: as if each had its own sink.
        """
        packed = min(PACKED_ITEMS, max(len(x), 1))
        rows = nn.functional.pad(x, (0, 0, 0, -len(x) % packed)).view(-1, packed, self.width)
        mask = torch.eye(1 + packed, dtype=torch.bool, device=x.device)
        mask[:, 0] = True
        positions = torch.ones(1 + packed, dtype=torch.long, device=x.device)
        positions[0] = 0
        return self.states(rows, mask[None, None], positions).flatten(0, 1)[: len(x)]

    def states(self, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Hidden states (B, T, d) after the final norm, float32.

        mask: (B, 1, 1 + T, 1 + T) where it is not causal; positions: (1 + T,) where they are not 0, 1, 2...
        """
        x = torch.cat([self.sink.expand(len(x), 1, -1), x], dim=1)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            recompute = self.checkpointing and self.training and torch.is_grad_enabled()
            x = self.norm(run_layers(self.layers, self.rotary, x, mask, positions, recompute=recompute)[:, 1:])
        return x.float()


def run_layers(
    layers: Any, rotary: Any, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None, *,
    recompute: bool = False,
) -> Tensor:  # fmt: skip
    """Run decoder layers over x (B, T, d), at positions 0..T - 1 or `positions` (T,); without `mask` it is causal.

    recompute: activations inside a layer are not kept but computed again when the gradient needs them.
    """
    ids = torch.arange(x.shape[1], device=x.device) if positions is None else positions
    rope = rotary(x, position_ids=ids[None])
    for layer in layers:

        def step(state: Tensor, layer: Any = layer) -> Tensor:
            return cast(Tensor, layer(state, attention_mask=mask, position_embeddings=rope))

        x = checkpoint(step, x, use_reentrant=False) if recompute else step(x)
    return x


def pool(states: Tensor, sizes: Tensor, how: TextPooling) -> Tensor:
    """Pool states (B, T, d), of which the first `sizes` (B,) >= 1 count, into (B, d)."""
    if how == "last":
        return states[torch.arange(len(states), device=states.device), sizes - 1]
    present = torch.arange(states.shape[1], device=states.device) < sizes[:, None]
    return (states * present[..., None]).sum(dim=1) / sizes[:, None]


def _means(x: Tensor, row: Tensor, first: Tensor, stop: Tensor) -> Tensor:
    """Means (S, d) of the elements `first` (S,) until before `stop` (S,) of the sequences `row` (S,) of x."""
    sums = nn.functional.pad(x.cumsum(dim=1), (0, 0, 1, 0))
    return (sums[row, stop] - sums[row, first]) / (stop - first).clamp(min=1)[:, None]


def _mean_of_text(states: Tensor, sizes: Tensor) -> Tensor:
    """Mean (B, d) of texts' states after layer k (B, T, d), the first `sizes` (B,) >= 1 of each, without sinks."""
    present = torch.arange(states.shape[1], device=states.device) < sizes[:, None]
    length = torch.linalg.vector_norm(states, dim=-1)
    usual = length.masked_fill(~present, float("nan")).nanmedian(dim=1).values
    counted = present & (length <= FURTHER_SINK * usual[:, None])
    mean: Tensor = (states * counted[..., None]).sum(dim=1) / counted.sum(dim=1, keepdim=True)
    return mean


def open_lower_layers(folder: Path, recipe: Recipe, *, device: str | None = None) -> LowerLayers:
    """Load the lower layers of an LLM. Raises ArtifactError where the folder holds another LLM than the recipe's."""
    check_same_llm(folder, recipe)
    device_name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_llm(folder, getattr(torch, recipe.precision))
    model.layers = model.layers[: recipe.cut]  # gives the memory of the others back
    return LowerLayers(model.to(device_name), load_tokenizer(folder), recipe, gpu=device_name != "cpu")


def check_same_llm(folder: Path, recipe: Recipe) -> None:
    """Raises ArtifactError, naming what differs, unless the folder holds the LLM of the recipe."""
    of_folder = recipe_of(
        folder, recipe.cut, pooling=recipe.pooling, precision=recipe.precision, template=recipe.template
    )
    if of_folder.id != msgspec.structs.replace(recipe, max_tokens=of_folder.max_tokens).id:
        theirs = {
            "weights": of_folder.llm.rpartition("@")[2],
            "config.json": of_folder.config,
            "tokenizer": of_folder.tokenizer,
        }
        ours = {"weights": recipe.llm.rpartition("@")[2], "config.json": recipe.config, "tokenizer": recipe.tokenizer}
        differ = " and ".join(name for name in ours if ours[name] != theirs[name])
        if not differ:
            raise ArtifactError(
                f"{recipe.llm} is the right language model, but what was made with it has vectors of version "
                f"{recipe.version}; here they are of version {of_folder.version}; train anew"
            )
        raise ArtifactError(
            f"{folder} is another language model than {recipe.llm}: its {differ} differ; name the right folder with "
            "--llm, or train anew on this one"
        )


def upper_weights(folder: Path, cut: int) -> dict[str, Tensor]:
    """The weights of an LLM's upper layers and its sink's state, by their names in `UpperLayers`, float32."""
    model = load_llm(folder, torch.float32)
    first = model.embed_tokens(torch.tensor([[sink_token(architecture(folder))]]))
    out = {"sink": run_layers(model.layers[:cut], model.rotary_emb, first)[0, 0]}
    for name, value in model.state_dict().items():
        if name.startswith("norm."):
            out[name] = value
        elif name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            if int(number) >= cut:
                out[f"layers.{int(number) - cut}.{rest}"] = value
    return out


@torch.no_grad()
def set_weights(upper: UpperLayers, weights: dict[str, Tensor]) -> None:
    """Set the layers' weights, whether they are parameters or frozen (see fusion/encoders/lora.py)."""
    tensors = dict(upper.named_parameters()) | dict(upper.named_buffers())
    for name, value in weights.items():
        tensors[name].copy_(value)
