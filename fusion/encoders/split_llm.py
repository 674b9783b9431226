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

FAMILY = ("llama", "mistral", "qwen2", "qwen3")  # pre-norm decoder layers that take rotary embeddings from outside
VERSION = 1  # of everything below that can change a text's vector but is no field of Recipe, FURTHER_SINK included
FURTHER_SINK = 4.0  # times the median length of a text's states; SmolLM2: other tokens' up to 2.2, sinks' 5.8 to 70
PACKED_ITEMS = 16  # sequences of one that share a sink: it is then a sixteenth of their cost, and their mask is small
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

    Raises InputError where there is no LLM, one of another build, or no such layer.
    """
    own = architecture(folder)
    layers = int(own["num_hidden_layers"])
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
        sink=sink_token(own),
        template=template,
        version=VERSION,
    )


def sink_token(own: Architecture) -> int:
    """The token that begins a text: what the LLM has for that, else what ends one, else its first."""
    for name in ("bos_token_id", "eos_token_id"):
        found = own.get(name)
        chosen = found[0] if isinstance(found, list) and found else found
        if isinstance(chosen, int) and 0 <= chosen < int(own["vocab_size"]):
            return chosen
    return 0


def architecture(folder: Path) -> Architecture:
    """The LLM's config.json. Raises InputError where it is broken, or the LLM cannot be cut."""
    if not folder.is_dir():
        raise InputError(f"there is no language model at {folder}; run `interestream fetch`, or name one with --llm")
    try:
        own: Architecture = msgspec.json.decode((folder / "config.json").read_bytes())
        own |= {name: int(own[name]) for name in ("num_hidden_layers", "hidden_size", "vocab_size")}
    except (OSError, ValueError, TypeError, KeyError, msgspec.DecodeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
        raise InputError(f"{folder} is no language model's folder: its config.json {reason}; {FETCH_AGAIN}") from None
    kind, types = own.get("model_type"), set(own.get("layer_types") or ["full_attention"])
    slides = own.get("sliding_window") and own.get("use_sliding_window", True)
    if kind not in FAMILY or types != {"full_attention"} or slides:
        raise InputError(
            f"{folder} holds a {kind} model{' with a sliding window' * bool(slides)}; what can be cut are causal "
            f"models with full attention of the kinds {', '.join(FAMILY)}"
        )
    return {name: value for name, value in own.items() if not name.startswith("_") and name != "transformers_version"}


class LowerLayers:
    """The frozen layers in memory: `low(texts) -> (n, d)`.

    As with text encoders, a vector is the same to the last bit whatever it is computed with: lengths are rounded up to
    8 tokens, and each length has a fixed number of rows, as many as the device is quick with.
    """

    def __init__(self, model: Any, tokenizer: Any, recipe: Recipe, *, gpu: bool) -> None:
        self.recipe, self.width = recipe, int(model.config.hidden_size)
        self._embed, self._layers, self._rotary = model.embed_tokens, model.layers[: recipe.cut], model.rotary_emb
        self._tokenizer, self._gpu = tokenizer, gpu

    @property
    def batch_texts(self) -> int:
        """Texts that a filler claims and computes together."""
        return TEXTS_CUDA if self._gpu else TEXTS_CPU

    def rows(self, length: int) -> int:
        """Of a batch whose texts have up to so many tokens."""
        return max(TOKENS_CUDA // length, 1) if self._gpu else ROWS_CPU

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, cut at the recipe's length, without special tokens."""
        most = self.recipe.max_tokens
        ids = self._tokenizer(list(texts), truncation=True, max_length=most, add_special_tokens=False)["input_ids"]
        return cast(list[list[int]], ids)

    @torch.no_grad()
    def states(self, ids: Tensor) -> Tensor:
        """(B, T, d) states after layer k of token ids (B, T), which the sink goes before and has no state here.

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
        for row, own in enumerate(texts):
            ids[row, : len(own)] = torch.tensor(own)
            sizes[row] = max(len(own), 1)
        place = self._embed.weight.device
        states, sizes = self.states(ids.to(place)).float(), sizes.to(place)
        if self.recipe.pooling == "mean":
            vectors = _mean_of_text(states, sizes)
        else:
            vectors = pool(states, sizes, self.recipe.pooling)
        pooled: NDArray[np.float32] = vectors.cpu().numpy()
        return pooled[: len(texts)]


class UpperLayers(nn.Module):
    """The layers above the cut, over vectors instead of tokens. Fresh weights; `put` gives it an LLM's.

    What goes before every sequence, the sink's state after layer k, is not trained. A sequence pooled has two halves:
    what the layers made of it, pooled, and the mean of what they read, so that nothing that low knew is lost.
    """

    sink: Tensor  # (d,)

    def __init__(
        self,
        own: Architecture,
        cut: int,
        *,
        mask: Mask = "causal",
        pooling: TextPooling = "mean",
        checkpointing: bool = False,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        bare = init_layers(own, int(own["num_hidden_layers"]) - cut)
        self.layers, self.norm, self.rotary = bare.layers, bare.norm, bare.rotary_emb
        self.width = int(bare.config.hidden_size)
        self.register_buffer("sink", torch.zeros(self.width))
        self.mask, self.pooling, self.checkpointing, self.precision = mask, pooling, checkpointing, precision

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """(B, 2 d), from sequences (B, T, d) whose first elements are `there` (B, T) bool; zero where none is."""
        sizes = there.sum(dim=1)
        seen = None
        if self.mask == "bidirectional":
            seen = nn.functional.pad(there, (1, 0), value=True)[:, None, None].repeat(1, 1, 1 + there.shape[1], 1)
            seen[:, :, 0, 1:] = False  # the sink is what it was in pre-training, whatever follows
        size = sizes.clamp(min=1)
        pooled = torch.cat([pool(self.states(x, seen), size, self.pooling), pool(x, size, "mean")], dim=1)
        return pooled * (sizes > 0)[:, None]

    def prefixes(self, x: Tensor, row: Tensor, sizes: Tensor, newest: int | None = None) -> Tensor:
        """(S, 2 d), from the first `sizes` (S,) elements of the sequences `row` (S,) of x (B, T, d).

        Zero where that is none. Pooled are the `newest` of them, or all; the states have seen the older ones too. A
        state knows nothing of later elements, so one pass serves all beginnings of a sequence. Raises ValueError where
        the mask is not causal.
        """
        if self.mask != "causal":
            raise ValueError(f"the beginnings of a sequence share a pass under a causal mask, not a {self.mask} one")
        states, last = self.states(x), (sizes - 1).clamp(min=0)
        first = (sizes - (newest or x.shape[1])).clamp(min=0)
        made = states[row, last] if self.pooling == "last" else _means(states, row, first, sizes)
        pooled = torch.cat([made, _means(x, row, first, sizes)], dim=1)
        return pooled * (sizes > 0)[:, None]

    def encode_items(self, x: Tensor) -> Tensor:
        """(O, d) of O sequences of one, x (O, d).

        Some go abreast behind one sink, all at position 1, and none sees another: as if each had a sink of its own.
        """
        each = min(PACKED_ITEMS, max(len(x), 1))
        rows = nn.functional.pad(x, (0, 0, 0, -len(x) % each)).view(-1, each, self.width)
        seen = torch.eye(1 + each, dtype=torch.bool, device=x.device)
        seen[:, 0] = True
        places = torch.ones(1 + each, dtype=torch.long, device=x.device)
        places[0] = 0
        return self.states(rows, seen[None, None], places).flatten(0, 1)[: len(x)]

    def states(self, x: Tensor, seen: Tensor | None = None, places: Tensor | None = None) -> Tensor:
        """(B, T, d) after the final norm, float32.

        seen: (B, 1, 1 + T, 1 + T) for a mask that is not causal; places: (1 + T,) positions, if not 0, 1, 2...
        """
        x = torch.cat([self.sink.expand(len(x), 1, -1), x], dim=1)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            again = self.checkpointing and self.training and torch.is_grad_enabled()
            x = self.norm(run_layers(self.layers, self.rotary, x, seen, places, again=again)[:, 1:])
        return x.float()


def run_layers(
    layers: Any, rotary: Any, x: Tensor, seen: Tensor | None = None, places: Tensor | None = None, *,
    again: bool = False,
) -> Tensor:  # fmt: skip
    """(B, T, d) through decoder layers, at positions 0..T - 1 or `places` (T,); without `seen` the mask is causal.

    again: activations inside a layer are not kept but computed again when the gradient needs them.
    """
    at = torch.arange(x.shape[1], device=x.device) if places is None else places
    rope = rotary(x, position_ids=at[None])
    for layer in layers:

        def step(own: Tensor, layer: Any = layer) -> Tensor:
            return cast(Tensor, layer(own, attention_mask=seen, position_embeddings=rope))

        x = checkpoint(step, x, use_reentrant=False) if again else step(x)
    return x


def pool(states: Tensor, sizes: Tensor, how: TextPooling) -> Tensor:
    """(B, d) of states (B, T, d), of which the first `sizes` (B,) >= 1 count."""
    if how == "last":
        return states[torch.arange(len(states), device=states.device), sizes - 1]
    there = torch.arange(states.shape[1], device=states.device) < sizes[:, None]
    return (states * there[..., None]).sum(dim=1) / sizes[:, None]


def _means(x: Tensor, row: Tensor, first: Tensor, stop: Tensor) -> Tensor:
    """(S, d): the means of the elements `first` (S,) until before `stop` (S,) of the sequences `row` (S,) of x."""
    sums = nn.functional.pad(x.cumsum(dim=1), (0, 0, 1, 0))
    return (sums[row, stop] - sums[row, first]) / (stop - first).clamp(min=1)[:, None]


def _mean_of_text(states: Tensor, sizes: Tensor) -> Tensor:
    """(B, d) of texts' states after layer k (B, T, d), of which the first `sizes` (B,) >= 1 count; no further sinks."""
    there = torch.arange(states.shape[1], device=states.device) < sizes[:, None]
    length = torch.linalg.vector_norm(states, dim=-1)
    usual = length.masked_fill(~there, float("nan")).nanmedian(dim=1).values
    read = there & (length <= FURTHER_SINK * usual[:, None])
    mean: Tensor = (states * read[..., None]).sum(dim=1) / read.sum(dim=1, keepdim=True)
    return mean


def open_lower_layers(folder: Path, recipe: Recipe, *, device: str | None = None) -> LowerLayers:
    """Load the layers below the cut. Raises ArtifactError where the folder holds another LLM than the recipe's."""
    check_same_llm(folder, recipe)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_llm(folder, getattr(torch, recipe.precision))
    model.layers = model.layers[: recipe.cut]  # the others' memory is given back
    return LowerLayers(model.to(place), load_tokenizer(folder), recipe, gpu=place != "cpu")


def check_same_llm(folder: Path, recipe: Recipe) -> None:
    """Raises ArtifactError, naming what differs, unless the folder holds the LLM of the recipe."""
    own = recipe_of(folder, recipe.cut, pooling=recipe.pooling, precision=recipe.precision, template=recipe.template)
    if own.id != msgspec.structs.replace(recipe, max_tokens=own.max_tokens).id:
        theirs = {"weights": own.llm.rpartition("@")[2], "config.json": own.config, "tokenizer": own.tokenizer}
        ours = {"weights": recipe.llm.rpartition("@")[2], "config.json": recipe.config, "tokenizer": recipe.tokenizer}
        differ = " and ".join(name for name in ours if ours[name] != theirs[name])
        if not differ:
            raise ArtifactError(
                f"{recipe.llm} is the right language model, but what was made with it has vectors of version "
                f"{recipe.version}; here they are of version {own.version}; train anew"
            )
        raise ArtifactError(
            f"{folder} is another language model than {recipe.llm}: its {differ} differ; name the right folder with "
            "--llm, or train anew on this one"
        )


def upper_weights(folder: Path, cut: int) -> dict[str, Tensor]:
    """The weights of an LLM's layers above the cut and its sink's state, by their names in `UpperLayers`, float32."""
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
def set_weights(high: UpperLayers, weights: dict[str, Tensor]) -> None:
    """Give the layers these weights, whether they are parameters or held fast (see fusion/encoders/lora.py)."""
    own = dict(high.named_parameters()) | dict(high.named_buffers())
    for name, value in weights.items():
        own[name].copy_(value)
