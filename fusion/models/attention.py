"""What attention over a past shares between models: how every part of the past meets the candidate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def meet_target(product: nn.Linear, own: nn.Linear, attended: Tensor, match: Tensor, target: Tensor) -> Tensor:
    """(B, S, w): match + product(attended * target) + own(target), for target (B, d) and layers without bias.

    attended: (B, S, d). match: (B, S, w). Of both there may be one row that all share, as in scoring one user: then all
    of it is one affine map of the target, without anything (B, S, d) and without a sum over (B, S, w).
    """
    if len(attended) > 1 or len(match) > 1 or len(target) == 1:
        met: Tensor = match + product(attended * target[:, None]) + own(target)[:, None]
        return met
    table = torch.addcmul(own.weight, attended[0][:, None], product.weight)  # (S, w, d)
    every = F.linear(target, table.flatten(0, 1), match[0].flatten())
    return every.view(len(target), *match.shape[1:])


def silu(x: Tensor) -> Tensor:
    """In place where nothing is learned: of what is attended it is most of the memory that a score touches."""
    return F.silu(x, inplace=not torch.is_grad_enabled())
