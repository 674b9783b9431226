"""The cross-entropy of a softmax over all items, a part of its logits at a time.

With m masked behaviours and K items the logits are m K numbers, 100 MB for a batch of 64 windows over 33,000 items, and
torch keeps them, their softmax and its gradient at once. Here the gradients of a part are made where its logits lie, as
soon as its loss is known, so that no more than LOGITS_AT_ONCE logits exist at any time; nothing is computed twice.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

LOGITS_AT_ONCE = 2**21  # 8 MB


def item_softmax(states: Tensor, items: Tensor, bias: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Of m states (m, d) against K items (K, d) with biases (K,), and the number of each one's own item (m,) int64:

    the summed cross-entropy, and the rank of the own item (m,), 0 is the most probable.
    """
    loss, ranks = cast(Any, _ItemSoftmax).apply(states, items, bias, wanted, torch.is_grad_enabled())
    return loss, ranks


class _ItemSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, items: Tensor, bias: Tensor, wanted: Tensor, learns: bool
    ) -> tuple[Tensor, Tensor]:
        loss, ranks = states.new_zeros(()), torch.empty_like(wanted)
        gradients = tuple(torch.zeros_like(one) for one in (states, items, bias)) if learns else ()
        at_once = max(LOGITS_AT_ONCE // len(items), 1)
        for start in range(0, len(states), at_once):
            part = slice(start, start + at_once)
            own, number = states[part], wanted[part, None]
            logits = torch.addmm(bias, own, items.T)  # (p, K)
            right = logits.gather(1, number)
            ranks[part] = (logits > right).sum(dim=1)
            greatest = logits.amax(dim=1, keepdim=True)
            share = logits.sub_(greatest).exp_()
            total = share.sum(dim=1, keepdim=True)
            loss += (total.log() + greatest - right).sum()
            if gradients:
                share.div_(total).scatter_add_(1, number, torch.full_like(right, -1.0))  # d loss / d logits
                torch.mm(share, items, out=gradients[0][part])
                gradients[1].addmm_(share.T, own)
                gradients[2].add_(share.sum(dim=0))
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(ranks)
        return loss, ranks

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return *(outer[0] * own for own in ctx.saved_tensors), None, None
