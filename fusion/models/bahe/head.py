"""What BAHE makes of users and items that have been read: four heads, whose logits are averaged.

Each head has its own projections, matching (fusion/models/bahe/target_attention.py), profile and tower, and learns for
itself: its loss is that of its own logit. What they share, the trained layers of the LLM, has the gradients of all. A
head's part in the error is what its start and its dropout made of a small log, and averaging takes most of that away.
One wider head would not do: its parts learn the same error together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion.features.spec import FeatureSpec
from fusion.models.bahe.collate import BaheBatch
from fusion.models.bahe.target_attention import FEEDBACK_WIDTH, Slow, TargetAttention, UserSide
from fusion.models.scenes import offered_scene
from fusion.models.tower import towers
from fusion.models.uif import WIDTH


class Head(nn.Module):
    """One of them. d: width of the LLM; many: N, sequences of a user; width: of a user's and of an item's part."""

    def __init__(
        self,
        spec: FeatureSpec,
        d: int,
        many: int,
        *,
        width: int,
        keys: int,
        profile: int,
        hidden: tuple[int, ...],
        dropout: float,
        interest: bool,
    ) -> None:
        super().__init__()
        self.matching = TargetAttention(d, keys, spec.value_rows)
        self.of_user = nn.ModuleList(Slow(2 * d, width) for _ in range(many))
        self.of_item = Slow(2 * d, width)
        self.profile = nn.ModuleList(nn.Embedding(column.size, profile) for column in spec.user_columns)
        inputs = (many + 1) * width + many * (2 + FEEDBACK_WIDTH) + profile * len(spec.user_columns) + len(spec.dense)
        inputs += 3 * WIDTH if interest else 0
        self.scene = offered_scene(spec, profile)
        inputs += profile if self.scene is not None else 0
        self.tower = towers(len(spec.tasks), inputs, len(spec.dense), hidden, dropout)
        for embedding in self.profile:
            assert isinstance(embedding, nn.Embedding)
            nn.init.normal_(embedding.weight, std=0.01)

    def forward(
        self, users: UserSide, keys: Tensor, offered: Tensor, interests: list[Tensor], batch: BaheBatch
    ) -> Tensor:
        """(B,) logits of offered items (B, 2 d), of T tasks (B, T); keys (S, N, M, k): this head's."""
        parts = [project(users.pooled[:, n]) for n, project in enumerate(self.of_user)]
        user = torch.cat([*parts, users.sizes.flatten(1)], dim=1)[batch.past]  # (B, N (w + 2))
        text = offered.chunk(2, dim=1)[1]
        inputs = [user, self.of_item(offered), self.matching(keys, users.feedback, text, batch.past), *interests]
        inputs += [embedding(batch.profile[:, column]) for column, embedding in enumerate(self.profile)]
        if self.scene is not None and batch.scene is not None:
            inputs.append(self.scene(self.scene.hide(batch.scene)))
        logit: Tensor = self.tower([*inputs, batch.dense], batch.dense)
        return logit
