"""The scene of an offer in a CTR model: an embedding, with a share of the offers shown as of no known scene.

So its row of the unknown is trained too, also where every behaviour of the log has a scene: requests may name none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion.features.spec import PADDING, UNKNOWN, FeatureSpec

HIDDEN = 0.1  # share of the offers of a training batch


class OfferedScene(nn.Module):
    """Rows of scenes become vectors of the model's profile width."""

    def __init__(self, spec: FeatureSpec, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(spec.scenes.size, width)
        nn.init.normal_(self.embedding.weight, std=0.01)

    def hide(self, rows: Tensor) -> Tensor:
        """In training, with a random share of the offers in an unknown scene; padding stays."""
        if not self.training:
            return rows
        hidden = (torch.rand(rows.shape, device=rows.device) < HIDDEN) & (rows != PADDING)
        return rows.masked_fill(hidden, UNKNOWN)

    def forward(self, rows: Tensor) -> Tensor:
        """(..., width)."""
        vectors: Tensor = self.embedding(rows)
        return vectors


def offered_scene(spec: FeatureSpec, width: int) -> OfferedScene | None:
    """None where the spec offers no scenes: the model is then as it was before there were any."""
    return OfferedScene(spec, width) if spec.offers_scenes else None
