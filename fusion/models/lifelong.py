"""What the whole past says, beside the L events that attention reads: two sums of item embeddings.

One sum is over the items of all positives of the user's past, the other over those of all other behaviours, each over
the root of their number plus one, as SVD++ sums implicit feedback (Koren, KDD 2008) and FISM pools the items of a user
(Kabbur, Ning and Karypis, KDD 2013); the embeddings are the encoder's own. A candidate meets the sums by products. A
new behaviour adds one embedding to one sum, however long the past.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.features.packed_windows import Users
from fusion.models.tower import Mapped


class Lifelong(nn.Module):
    """Item embeddings of width d become a user's (G, 2 d); a candidate's d meets them as (B, 2 d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.taste = nn.Linear(width, width)

    def user(self, users: Users, items: Tensor) -> Tensor:
        """(G, 2 d), from items (M, d). Zero where there is no past."""
        window = torch.repeat_interleave(users.past_size)  # (E,)
        begin = users.past_size.cumsum(0) - users.past_size
        totals, counts = [], []
        for weight in (users.past_positive, 1 - users.past_positive):
            totals.append(F.embedding_bag(users.past, items, begin, mode="sum", per_sample_weights=weight))
            counts.append(torch.zeros(len(users), device=items.device).index_add_(0, window, weight))
        return pooled(torch.stack(totals, dim=1), torch.stack(counts, dim=1))

    def meet(self, user: Tensor, item: Tensor) -> Tensor | Mapped:
        """(B, 2 d), from (B, 2 d), or (1, 2 d) of one user, and (B, d)."""
        taste = self.taste
        if len(user) == 1:
            own = user.view(2, -1)
            return Mapped(item, (own[..., None] * taste.weight).flatten(0, 1), (own * taste.bias).flatten())
        return torch.cat([own * taste(item) for own in user.chunk(2, dim=1)], dim=1)


def pooled(totals: Tensor, counts: Tensor) -> Tensor:
    """(G, 2 d), from sums of item embeddings (G, 2, d), of positives and of others, and their counts (G, 2)."""
    return (totals / (1 + counts[..., None]).sqrt()).flatten(1)
