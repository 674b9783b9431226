"""FG-BERT, the fine-grained bidirectional encoder of behaviours (SRP4CTR, arXiv 2407.19658, section 3.1).

A token is the sum of its item's embeddings, of its behaviour's embeddings and of its position. Which fields there are,
the FeatureSpec says. The paper gives L = 200 and two layers; width, heads and the normalisation before each block
(easier to train than BERT's after it) are ours.
"""

from __future__ import annotations

from typing import cast

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.features.events import behavior_rows
from fusion.features.packed_windows import Items
from fusion.features.spec import FeatureSpec
from fusion.models.modalities import item_modalities


class FgBertConfig(msgspec.Struct, frozen=True, kw_only=True):
    positions: int  # L, and as many more as a window may hold after its prefix
    width: int = 64  # d
    layers: int = 2  # the paper's
    heads: int = 2
    inner: int = 4  # the feed-forward block is this many times as wide
    dropout: float = 0.1


class Layer(nn.Module):
    """One transformer layer; it also hands out its keys and values, which candidates may look at."""

    def __init__(self, config: FgBertConfig) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.norm = nn.LayerNorm(d)
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.out = nn.Linear(d, d)
        self.feed = FeedForward(config)
        self.drop = nn.Dropout(config.dropout)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Two (G, H, T, d / H), of normalised states (G, T, d)."""
        return split_heads(self.key(x), self.heads), split_heads(self.value(x), self.heads)

    def forward(self, x: Tensor, normed: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
        """(G, T, d). hidden: (G, 1, T, T), 0 where a row may attend to a column, very negative elsewhere."""
        queries = split_heads(self.query(normed), self.heads)
        x = x + self.drop(self.out(join_heads(attend(queries, keys, values, hidden))))
        return cast(Tensor, self.feed(x))


class FeedForward(nn.Module):
    """x + FFN(norm(x))."""

    def __init__(self, config: FgBertConfig) -> None:
        super().__init__()
        d = config.width
        self.norm = nn.LayerNorm(d)
        self.inner, self.outer = nn.Linear(d, config.inner * d), nn.Linear(config.inner * d, d)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.inner(self.norm(x)))
        return x + cast(Tensor, self.drop(self.outer(inner)))


class FgBert(nn.Module):
    """The encoder alone: what fine-tuning takes over. Its embeddings are the candidates' too."""

    def __init__(self, spec: FeatureSpec, config: FgBertConfig) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.item = nn.Embedding(spec.item_rows, d, padding_idx=0)
        self.category = nn.Embedding(spec.categories.size, d, padding_idx=0)
        self.attributes = nn.ModuleList(nn.Embedding(column.size, d, padding_idx=0) for column in spec.item_columns)
        self.behavior = nn.ModuleList(nn.Embedding(rows, d, padding_idx=0) for rows in behavior_rows(spec).values())
        self.position = nn.Embedding(config.positions, d)
        self.hidden_item = nn.Parameter(torch.empty(d))  # stands for a masked item
        self.hidden_behavior = nn.Parameter(torch.empty(d))  # stands for a masked behaviour, or one that is to come
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(d)
        self.drop = nn.Dropout(config.dropout)
        start(self)
        nn.init.normal_(self.hidden_item, std=0.02)
        nn.init.normal_(self.hidden_behavior, std=0.02)
        self.modalities = item_modalities(spec.item_modalities, d)

    def items(self, items: Items) -> Tensor:
        """(M, d): the sum of id, attributes, modalities and the mean of the categories. Row 0, padding, is zero."""
        kinds = (items.categories > 0).sum(dim=1, keepdim=True).clamp(min=1)
        named = F.embedding_bag(items.categories, self.category.weight, mode="sum", padding_idx=0)  # never (M, C, d)
        x: Tensor = self.item(items.row) + named / kinds
        for column, embedding in enumerate(self.attributes):
            x = x + embedding(items.attributes[:, column])
        if self.modalities is not None and items.vectors is not None:
            x = x + self.modalities(items.vectors)
        return x

    def behaviors(self, rows: Tensor) -> Tensor:
        """(..., d): the sum over the behaviour fields of (..., F) rows."""
        x: Tensor = self.behavior[0](rows[..., 0])
        for field in range(1, len(self.behavior)):
            x = x + self.behavior[field](rows[..., field])
        return x

    def forward(self, tokens: Tensor, hidden: Tensor, *, states: bool = True) -> Encoded:
        """tokens: (G, T, d), item + behaviour + position. hidden: see Layer.

        Without `states` the last layer stops at its keys and values, half of the work of two layers.
        """
        x, keys, values = self.drop(tokens), [], []
        for number, child in enumerate(self.layers):
            layer = cast(Layer, child)
            normed = layer.norm(x)
            own_keys, own_values = layer.keys_values(normed)
            keys.append(own_keys)
            values.append(own_values)
            if states or number + 1 < len(self.layers):
                x = layer(x, normed, own_keys, own_values, hidden)
        return Encoded(tuple(keys), tuple(values), self.norm(x) if states else None)


class Encoded(msgspec.Struct, frozen=True):
    """What an encoder made of G windows."""

    keys: tuple[Tensor, ...]  # per layer (G, H, T, d / H)
    values: tuple[Tensor, ...]
    states: Tensor | None  # (G, T, d), after the last layer


class FgBertHeads(nn.Module):
    """What is asked of a masked element: which item, and every behaviour field."""

    def __init__(self, spec: FeatureSpec, config: FgBertConfig) -> None:
        super().__init__()
        d = config.width
        self.transform = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.LayerNorm(d))
        self.bias = nn.Parameter(torch.zeros(spec.item_rows))
        self.fields = nn.ModuleList(nn.Linear(d, rows) for rows in behavior_rows(spec).values())
        start(self)

    def item_logits(self, states: Tensor, items: Tensor, rows: Tensor) -> Tensor:
        """(m, K) from states (m, d) against the summed embeddings (K, d) of the items in embedding rows (K,)."""
        return cast(Tensor, self.transform(states)) @ items.T + self.bias[rows]

    def own_logits(self, states: Tensor, items: Tensor, rows: Tensor) -> Tensor:
        """(m, 1): each state (m, d) against its own item (m, d)."""
        return (cast(Tensor, self.transform(states)) * items).sum(dim=1, keepdim=True) + self.bias[rows][:, None]


def start(module: nn.Module) -> None:
    """BERT's start: normal with deviation 0.02, biases and padding 0."""
    for child in module.modules():
        if isinstance(child, nn.Embedding | nn.Linear):
            nn.init.normal_(child.weight, std=0.02)
        if isinstance(child, nn.Embedding) and child.padding_idx is not None:
            nn.init.zeros_(child.weight[child.padding_idx])
        if isinstance(child, nn.Linear) and child.bias is not None:
            nn.init.zeros_(child.bias)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(G, T, d) to (G, H, T, d / H)."""
    return x.view(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """(G, H, S, d / H). By hand: with a mask, torch's own takes five times as long on a CPU at these sizes."""
    scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5 + bias
    return torch.softmax(scores, dim=-1) @ values


def hide(mask: Tensor, prefix: int) -> Tensor:
    """(G, 1, T, T): 0 or -1e9. Columns before `prefix` are seen by every row, later ones by themselves and later rows.

    mask: (G, T), False is padding, which nothing but itself looks at.
    """
    columns = torch.arange(mask.shape[1], device=mask.device)
    open_to = (columns < prefix) | (columns <= columns[:, None])  # (T, T)
    itself = columns == columns[:, None]
    visible = (open_to & mask[:, None, :]) | itself
    return torch.zeros(visible.shape, device=mask.device).masked_fill_(~visible, -1e9)[:, None]
