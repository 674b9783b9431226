"""Every dimension of a vector minus its mean, divided by its deviation: running statistics of the training batches.

Pooled states of an LLM point nearly all the same way (SmolLM2, users' histories: vectors of length 49.2, their mean
49.1), so what tells one from another is small, and a norm over a vector keeps it small. This is batch normalisation
(Ioffe and Szegedy, ICML 2015) without its two learned vectors, which a linear layer follows anyway, and with the
running statistics in training too, so that training sees what scoring will. They are buffers: saved and averaged with
the weights, the same in every process.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

MEMORY = 0.98  # of the running statistics; at first all batches count the same
BOUND = 10.0  # deviations: what is unlike all training data does not decide by one dimension
LEAST = 1e-6  # variance, for a dimension that never moves


class Standardise(nn.Module):
    """(B, ...) standardised by statistics of its training rows. Rows know nothing of each other but through those."""

    mean: Tensor
    variance: Tensor
    # The shape without its last dimension: batches in which there was a row, at most 1 / (1 - MEMORY). Each sequence
    # has its own, for a rare one may come late. A float, for the averaged weights have it too
    batches: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("batches", torch.zeros(shape[:-1]))

    def forward(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """x (B, ...); times (B, ...), of fewer dimensions: how often each is learnt from, for what is not there 0."""
        if self.training:
            self._learn(x.detach().double(), torch.ones(len(x), device=x.device) if times is None else times)
        return ((x - self.mean) * (self.variance + LEAST).rsqrt()).clamp(-BOUND, BOUND)

    def deviation(self, x: Tensor, times: Tensor) -> Tensor:
        """(...) of the dimensions of x (B, ...), whose rows are learnt from in training as in `forward`."""
        if self.training:
            self._learn(x.detach().double(), times)
        return self.variance.sqrt()

    @torch.no_grad()
    def _learn(self, x: Tensor, times: Tensor) -> None:
        """One more batch. In double precision, for the means are large against the deviations.

        1. How many rows there are, their sums and squares, of all processes. 2. The batch's mean and variance. 3. The
        running ones: those of a mixture of what was and what came; what had no row stays as it was.
        """
        weight = times.double().reshape(*times.shape, *[1] * (x.dim() - times.dim())).expand_as(x)
        sums = torch.stack([weight, weight * x, weight * x * x]).sum(dim=1)  # 1
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        count = sums[0].clamp(min=1)  # 2
        mean = sums[1] / count
        variance = (sums[2] / count - mean.square()).clamp(min=0)
        met = sums[0][..., 0] > 0  # 3
        share = (torch.clamp(1 / (1 + self.batches.double()), min=1 - MEMORY) * met)[..., None]
        apart = mean - self.mean
        self.variance.copy_((1 - share) * self.variance + share * variance + share * (1 - share) * apart.square())
        self.mean.add_(share * apart)
        self.batches.add_(met).clamp_(max=1 / (1 - MEMORY))
