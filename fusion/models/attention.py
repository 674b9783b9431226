"""What attention over a past shares between models: the product of what is attended with the candidate."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F


def product_with_target(layer: nn.Linear, attended: Tensor, target: Tensor) -> Tensor:
    """(B, S, w): a layer without bias, of attended (B, S, d), or (1, S, d) that all share, times target (B, d)."""
    if len(attended) > 1 or len(target) == 1:
        return cast(Tensor, layer(attended * target[:, None]))
    table = attended[0][:, None] * layer.weight  # (S, w, d): one product for all, without (B, S, d)
    product: Tensor = F.linear(target, table.flatten(0, 1))
    return product.view(len(target), *table.shape[:2])
