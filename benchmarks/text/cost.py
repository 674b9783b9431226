"""What BAHE and full text cost at scale, by arithmetic that one can follow: FLOPs a sample, and days on 8 A100.

A layer does 2 FLOPs a weight and token, and 2 * 2 * d for each of the tokens that a token attends to (queries by keys,
weights by values). Every text and every sequence has a sink before it; items go abreast behind one. A gradient costs
twice the forward pass. The head, the embeddings' look-up and the optimiser, which are small and the same for both, are
left out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fusion.encoders.split_llm import PACKED_ITEMS

SAMPLES = 50_000_000  # a day's, in the paper (section 4.1)
GPUS, PEAK = 8, 312e12  # A100, dense bfloat16, FLOP/s
# Share of the peak that is reached, for both: what well made training of LLMs reaches on A100 (model FLOPs utilisation
# of 0.3 to 0.55 is reported). Short sequences of vectors reach less, so BAHE's days are rather a lower bound
UTILISATION = 0.4


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How an LLM is read."""

    width: int
    layer: int  # weights of a layer
    layers: int
    cut: int
    behavior: float  # tokens of a behaviour's text
    item: float  # tokens of an item's text
    history: int = 50


def shape_of(own: dict[str, Any], cut: int, behavior: float, item: float) -> Shape:
    """From an LLM's config.json and the mean lengths of the texts."""
    d, heads = int(own["hidden_size"]), int(own["num_attention_heads"])
    keys = d * int(own.get("num_key_value_heads") or heads) // heads
    layer = 2 * d * d + 2 * d * keys + 3 * d * int(own["intermediate_size"])
    return Shape(
        width=d, layer=layer, layers=int(own["num_hidden_layers"]), cut=cut, behavior=behavior, item=item
    )  # fmt: skip


def forward(shape: Shape, tokens: float) -> float:
    """FLOPs of one layer over a causal sequence: a token attends to half of the others on average."""
    return 2 * shape.layer * tokens + 4 * shape.width * tokens * tokens / 2


def full_text(shape: Shape, shared: float = 1.0, *, kept: bool = False) -> float:
    """FLOPs of training on a sample: a user's text and an item's, where `shared` samples share a pass over the user's.

    kept: the frozen layers' states are read, not computed.
    """
    users, items = forward(shape, 1 + shape.history * shape.behavior) / shared, forward(shape, 1 + shape.item)
    frozen = 0 if kept else shape.cut
    return (users + items) * (frozen + 3 * (shape.layers - shape.cut))


def bahe(shape: Shape, together: float = 1.0) -> float:
    """The same for one vector a behaviour, where `together` samples of a user share a window."""
    window = 1 + shape.history + together - 1
    return 3 * (shape.layers - shape.cut) * (forward(shape, window) / together + forward(shape, 1 + 1 / PACKED_ITEMS))


def bank(shape: Shape, behaviors_a_text: float) -> float:
    """FLOPs of filling the bank for one new behaviour, of which so many have the same text."""
    return shape.cut * forward(shape, 1 + shape.behavior) / behaviors_a_text


def days(flops: float, samples: int = SAMPLES, *, utilisation: float = UTILISATION) -> float:
    """Days on 8 A100 for so many samples of `flops` each."""
    return samples * flops / (GPUS * PEAK * utilisation) / 86_400


def estimate(shape: Shape, *, together: float, shared: float, behaviors_a_text: float) -> dict[str, Any]:
    """The systems' FLOPs a sample and their days, with all that the estimate stands on."""
    flops = {
        "full text, every sample by itself": full_text(shape),
        "full text, one pass a user, frozen states kept": full_text(shape, shared, kept=True),
        "BAHE, every sample by itself": bahe(shape),
        f"BAHE, {together:.1f} samples a window": bahe(shape, together),
        "filling the bank": bank(shape, behaviors_a_text),
    }
    return {
        "inputs": msgspec.to_builtins(shape)
        | {"samples": SAMPLES, "gpus": GPUS, "peak": PEAK, "utilisation": UTILISATION}
        | {"together": together, "samples_a_user": shared, "behaviors_a_text": behaviors_a_text},
        "flops_a_sample": {name: float(f"{own:.4g}") for name, own in flops.items()},
        "days": {name: float(f"{days(own):.3g}") for name, own in flops.items()},
    }
