"""Uni cross-attention (SRP4CTR, arXiv 2407.19658, section 3.2): candidates look at a user's keys and values.

Of one user at one moment everything but the candidates is the same, so the user's keys and values are multiplied with
the model's weights first, once for any number of candidates and requests.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.models.srp4ctr.fgbert import FeedForward, FgBertConfig, Layer, attend, join_heads, split_heads
from fusion.models.tower import Folded


class LayerProducts(NamedTuple):
    """What a user's keys and values of a layer make of its projections."""

    seek: Tensor  # (H T, d)
    far: Tensor  # (H T,)
    told: Tensor  # (H T, d)


class UserProducts(NamedTuple):
    """What a user's state at one moment makes of the model's weights: what is left are products with candidates."""

    start: Tensor  # (d,), added to every candidate
    layers: tuple[LayerProducts, ...]
    tower: tuple[Folded, ...]  # of each task

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for one in (*self.layers, *self.tower) for part in one)


class CrossLayer(nn.Module):
    """A candidate's side of one layer. Keys and values come from the user's side, by the encoder's projections."""

    def __init__(self, config: FgBertConfig) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.norm, self.query, self.out = nn.LayerNorm(d), nn.Linear(d, d), nn.Linear(d, d)
        self.feed = FeedForward(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor, some: Tensor) -> Tensor:
        """(G, C, d). bias: (G, H, C, T). some: (G, C, 1), whether there is anything to see."""
        queries = split_heads(self.query(self.norm(x)), self.heads)
        attended = join_heads(attend(queries, keys, values, bias)) * some
        return cast(Tensor, self.feed(x + self.drop(self.out(attended))))

    def products(self, keys: Tensor, values: Tensor, bias: Tensor, some: Tensor) -> LayerProducts:
        """Of one user (1, H, T, d / H) at one moment: bias (1, H, 1, T), some (1, 1, 1).

        Query and output projections go into the keys and values, so that what is left for a candidate are two products
        of (C, d), whatever the number of heads. The output's bias goes in with the values, for weights sum to one.
        """
        _, heads, _, width = keys.shape
        root = width**-0.5
        query, own = self.query.weight.view(heads, width, -1), self.query.bias.view(heads, width, 1)
        far = (keys[0] @ own)[..., 0].mul_(root).add_(bias[0, :, 0])  # (H, T)
        out = self.out.weight.T.view(heads, width, -1)
        told = torch.addcmul(self.out.bias / heads, values[0] @ out, some)
        return LayerProducts((keys[0] @ query).mul_(root).flatten(0, 1), far.flatten(), told.flatten(0, 1))

    def meet(self, x: Tensor, user: LayerProducts) -> Tensor:
        """(C, d), as `forward` without dropout."""
        scores = F.linear(self.norm(x), user.seek, user.far)
        weights = torch.softmax(scores.view(len(x), self.heads, -1), dim=2).view_as(scores)
        return cast(Tensor, self.feed(torch.addmm(x, weights, user.told)))

    def copy(self, layer: Layer) -> None:
        for name in ("norm", "query", "out", "feed"):
            getattr(self, name).load_state_dict(getattr(layer, name).state_dict())
