"""What ends every CTR model here: hidden layers over all that it has read, a linear path and a network of their own for
the dense features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DensePath(nn.Module):
    """The dense features (B, F) alone become a logit (B,), to which the rest of a model adds its own.

    Counts and match scalars say most of what is known on a small log, and it takes several passes to learn it, after
    the first of which item embeddings begin to know the training rows by heart (the one-epoch phenomenon: Zhang et
    al., CIKM 2022). So this path is fitted first, by itself (fusion/training/dense_path.py).
    """

    def __init__(self, dense: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = dense
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.SiLU(), nn.Dropout(dropout)]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, 1))

    def forward(self, dense: Tensor) -> Tensor:
        logit: Tensor = self.layers(dense)
        return logit[:, 0]


class Tower(nn.Module):
    """Inputs (B, I) and dense features (B, F), which are among them too, become logits (B,)."""

    def __init__(self, inputs: int, dense: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.SiLU(), nn.Dropout(dropout)]
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(inputs, 1)
        self.linear = nn.Linear(dense, 1, bias=False)  # the counts alone are a fair model: it begins as one of nothing
        self.width = inputs  # of what `read` returns
        nn.init.zeros_(self.linear.weight)

    def forward(self, inputs: list[Tensor], dense: Tensor) -> Tensor:
        return self.logits(self.read(inputs), dense)

    def read(self, inputs: list[Tensor]) -> Tensor:
        """(B, width): what the last layer sees."""
        hidden: Tensor = self.layers(torch.cat(inputs, dim=1))
        return hidden

    def logits(self, hidden: Tensor, dense: Tensor) -> Tensor:
        logit: Tensor = self.last(hidden) + self.linear(dense)
        return logit[:, 0]
