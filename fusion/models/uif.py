"""UIF, user interest fusion (LIBER, arXiv 2411.14713, section 3.4): what the LLM wrote becomes a vector of the user.

A knowledge encoder compresses each partition's text vectors (summary and shift); masked attention over the user's
partitions, newest first, fuses them into one user vector; the item gets a vector of the same width. Both are appended
to any backbone's inputs, and the whole is trained with the CTR loss.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.features.samples import Batch
from fusion.models.tower import Input, Mapped, of_user

WIDTH = 32  # the width of both vectors in the public code of the same family (KAR, HiT-LBM)


class HasInterests(Protocol):
    """Users (or samples) with the vectors of the partitions that each may see."""

    @property
    def interest_vectors(self) -> Tensor:
        """(Q, W) of distinct partitions: summary and shift vectors."""

    @property
    def partitions(self) -> Tensor:
        """(B, P) into the Q, newest first; -1 is none."""


class InterestFusion(nn.Module):
    """P partitions of text width W become a user vector (B, 32); an item vector of width E becomes (B, 32)."""

    def __init__(self, text_width: int, item_width: int, slots: int, hidden: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.knowledge = nn.Sequential(
            nn.LayerNorm(text_width),
            nn.Linear(text_width, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, WIDTH),
        )
        self.age = nn.Parameter(torch.zeros(slots, WIDTH))  # 0 is the newest partition
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)
        self.value = nn.Linear(WIDTH, WIDTH, bias=False)
        self.seek = nn.Parameter(torch.zeros(WIDTH))  # what the pooling looks for
        self.none = nn.Parameter(torch.zeros(WIDTH))  # a user without a partition
        self.item = nn.Linear(item_width, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def user(self, batch: HasInterests) -> Tensor:
        """(B, 32): depends on the partitions alone, so it can be stored per user."""
        return self.user_vector(batch.interest_vectors, batch.partitions)

    def user_vector(self, interest_vectors: Tensor, partitions: Tensor) -> Tensor:
        """(B, 32), from distinct partitions' vectors (Q, W) and which of them each user has: (B, P), -1 for none."""
        mask = partitions >= 0  # (B, P)
        if not len(interest_vectors):
            return self.none.expand(len(partitions), WIDTH)
        compressed = self.knowledge(interest_vectors)  # (Q, 32): once for every distinct partition
        x = F.embedding(partitions.clamp(min=0), compressed) + self.age[: mask.shape[1]]  # (B, P, 32)
        scores = self.query(x) @ self.key(x).transpose(1, 2) / WIDTH**0.5  # (B, P, P)
        x = x + _softmax(scores, mask[:, None, :]) @ self.value(x)
        weights = _softmax(x @ self.seek / WIDTH**0.5, mask)  # (B, P)
        fused = self.norm((weights[:, None, :] @ x)[:, 0])  # (B, 32)
        return torch.where(mask.any(dim=1, keepdim=True), fused, self.none)

    def inputs(self, batch: Batch, item: Tensor) -> list[Input]:
        """User vector, item vector and their product: 96 wide together, from item (B, E).

        Of partitions that all share, (1, P), the user vector is made once.
        """
        user = self.user(batch)
        return [of_user(user, item), self.meet(user, item)]

    def join(self, user: Tensor, item: Tensor) -> Tensor:
        """(B, 96) from user vectors (B, 32) and item (B, E)."""
        offered = self.item(item)
        return torch.cat([user, offered, user * offered], dim=1)

    def meet(self, user: Tensor, item: Tensor) -> Tensor | Mapped:
        """Item vector and its product with the user's: (B, 64), from (B, 32), or (1, 32) of one user, and (B, E)."""
        if len(user) == 1:
            own = torch.cat([torch.ones_like(user), user], dim=0)  # (2, 32)
            return Mapped(item, (own[..., None] * self.item.weight).flatten(0, 1), (own * self.item.bias).flatten())
        offered = self.item(item)
        return torch.cat([offered, user * offered], dim=1)


def _softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis where the mask holds; rows without any are zero."""
    return torch.softmax(scores.masked_fill(~mask, -1e9), dim=-1) * mask
