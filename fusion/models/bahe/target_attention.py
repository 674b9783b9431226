"""What pooling a history loses, told to BAHE's head: its size, the share that was liked, and what bears on the item.

A vector of the bank has the rating as one of some 17 tokens, so the mean of fifty hardly tells how many were liked. And
that a user disliked three films like the one offered is in no mean at all: attention weighs the past behaviours by how
alike their texts are to the offered item's, and sums what the user made of them (value, label). Both sides of it are
projections of frozen vectors. The behaviours' does not depend on what is offered, so it is made once and kept.

Validation AUC of heads alone on kept vectors (the 300 users of benchmarks/bahe_auc.py, cut 26, no counts, means of
three seeds; trials that were not kept): .665 with products of user and item instead of all this, .674 with slow layers,
items' own vectors and no products, .678 with sizes and shares too, .686 with the matching; with keys of 32 .680, and
then with the products again .672. The first had four epochs, the others six. Dropout on users and items gained nothing.
DIN without text, stopped after three epochs: .680. A seed's AUC moves by .003 to .008, and some forty designs were
looked at on these 1,500 rows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.features.events import LABEL_ROWS
from fusion.features.labels import POSITIVE, UNLABELLED

LIKED = POSITIVE - UNLABELLED + 1  # the label row of a positive
FEEDBACK_WIDTH = 4  # width of what a user made of a behaviour; more learnt the training rows by heart
SHARE = 0.1  # of a Slow layer's learning rate
SHARP = 10.0  # cosines are multiplied by it before the softmax, at first


class UserSide(NamedTuple):
    """Of S pasts with N sequences: what does not depend on the candidate."""

    pooled: Tensor  # (S, N, 2 d) standardised
    sizes: Tensor  # (S, N, 2) standardised: log(1 + size), share of liked
    keys: Tensor  # (S, N, M, heads, k) of length 1, the newest behaviour last; zero where nothing is known
    feedback: Tensor  # (S, N, M) int32: see `TargetAttention`; 0 where no behaviour is


class Slow(nn.Linear):
    """A linear layer that begins as usual and learns a tenth as fast.

    Adam moves every weight of d standardised inputs alike, so what they say together moves d times as fast as one
    number's; on 7,500 samples that is noise. Its input is a tenth and its weights are ten times as large.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        with torch.no_grad():
            self.weight.div_(SHARE)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x * SHARE, self.weight, self.bias)


class TargetAttention(nn.Module):
    """Attention of offered items over behaviours by the likeness of their texts.

    Items and behaviours share one projection: their texts differ in a few words. What a user made of a behaviour is the
    number value row * LABEL_ROWS + label row, never 0.
    """

    def __init__(self, width: int, keys: int, values: int) -> None:
        super().__init__()
        self.key = Slow(width, keys, bias=False)
        self.sharp = nn.Parameter(torch.tensor(math.log(SHARP)))
        self.value, self.label = nn.Embedding(values, FEEDBACK_WIDTH), nn.Embedding(LABEL_ROWS, FEEDBACK_WIDTH)
        for embedding in (self.value, self.label):
            nn.init.normal_(embedding.weight, std=0.1)

    def keys(self, standard: Tensor, known: Tensor) -> Tensor:
        """(V, k) of behaviours' standardised vectors (V, d); zero where not `known` (V,)."""
        return F.normalize(self.key(standard), dim=-1) * known[:, None]

    def forward(self, keys: Tensor, feedback: Tensor, items: Tensor, past: Tensor) -> Tensor:
        """(B, N * FEEDBACK_WIDTH), from items' standardised texts (B, d) and each one's past (B,); zero where empty.

        keys (S, N, M, k) and feedback (S, N, M): of S pasts.
        """
        feedback = feedback[past]  # (B, N, M)
        alike = torch.einsum("bnmk,bk->bnm", keys[past], F.normalize(self.key(items), dim=-1))
        mask = feedback > 0
        weights = (alike * self.sharp.exp()).masked_fill(~mask, -1e4).softmax(dim=-1) * mask
        table = (self.value.weight[:, None] + self.label.weight).flatten(0, 1)
        return torch.einsum("bnm,bnmv->bnv", weights, F.embedding(feedback, table)).flatten(1)


def sizes_of(feedback: Tensor) -> Tensor:
    """(S, N, 2) log(1 + size) and share of liked, from what users made of behaviours (S, N, M)."""
    size = (feedback > 0).sum(dim=-1)
    liked = (feedback % LABEL_ROWS == LIKED).sum(dim=-1) / size.clamp(min=1)
    return torch.stack([size.float().log1p(), liked], dim=-1)
