"""Modalities of items in a CTR model: every vector is projected to the model's width, and what an item lacks is learnt.

Modality dropout (Neverova et al., ModDrop, TPAMI 2016): in training a share of the items is shown without one of their
vectors, so that the model does with what is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fusion.features.modalities import MISSING, Modality

DROPPED = 0.1  # share of a modality's vectors in a batch of training
START = 0.01  # deviation of a projected vector at first, as of the embeddings that it joins


class ItemModalities(nn.Module):
    """Marked vectors of items (M, W), as `standardised` makes them, become (M, width): the sum over the modalities."""

    def __init__(self, modalities: Sequence[Modality], width: int, *, start: float = START) -> None:
        super().__init__()
        self.widths = [modality.width for modality in modalities]
        self.projections = nn.ModuleList(nn.Linear(own, width, bias=False) for own in self.widths)
        self.missing = nn.Parameter(torch.zeros(len(self.widths), width))
        for projection in self.projections:
            assert isinstance(projection, nn.Linear)
            nn.init.normal_(projection.weight, std=start)

    def forward(self, vectors: Tensor) -> Tensor:
        """Padding becomes zero. Inputs have length 1, about: Adam would else move a wide one as fast as it is wide."""
        total = vectors.new_zeros((len(vectors), self.missing.shape[1]))
        blocks = torch.split(vectors, [own + 1 for own in self.widths], dim=1)
        for number, (block, projection) in enumerate(zip(blocks, self.projections, strict=True)):
            mark, vector = block[:, :1], block[:, 1:] / max(self.widths[number], 1) ** 0.5
            present = (mark > MISSING).to(vector.dtype)
            if self.training:
                present = present * (torch.rand_like(mark) >= DROPPED)
            total = total + present * projection(vector) + (1 - present) * (mark >= MISSING) * self.missing[number]
        return total


def item_modalities(modalities: Sequence[Modality], width: int, *, start: float = START) -> ItemModalities | None:
    """None where the spec has no modalities: the model is then as it was before there were any."""
    return ItemModalities(modalities, width, start=start) if modalities else None
