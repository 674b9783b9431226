"""DIN (Zhou et al., KDD 2018, section 4.3): the history is weighted by how much it bears on the offered item.

What differs from the paper: a past event enters attention with what the user made of it (value, label, action) and
with its age in days; the four-fold concatenation [h, t, h - t, h * t] W is computed as its equal h A + t B + (h * t) C,
so that the first two products are made once per distinct item instead of once per position; there are several attention
heads; and the lifelong counts join the other inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.features.collate import RowCollator
from fusion.features.events import GAP_ROWS, LABEL_ROWS
from fusion.features.samples import Batch
from fusion.features.spec import FeatureSpec
from fusion.models.attention import meet_target, silu
from fusion.models.kv.reader import KeyReader
from fusion.models.modalities import item_modalities
from fusion.models.protocol import Loss, ctr_only
from fusion.models.scenes import offered_scene
from fusion.models.tower import Input, dense_paths, of_user, towers
from fusion.models.uif import InterestFusion


class DinConfig(msgspec.Struct, frozen=True, kw_only=True):
    width: int = 32  # d, of an item and of a past event
    attention: int = 32  # a, hidden units of the attention MLP
    heads: int = 2
    profile: int = 8
    hidden: tuple[int, ...] = (200, 80)  # the paper's
    dropout: float = 0.2
    dense_path: bool = False  # the dense features have a network of their own beside the tower, fitted first
    interest: bool = False
    keys: bool = False  # the user's key-vector state beside the history


class Din(nn.Module):
    """Scores impressions: `forward(batch) -> (B,)` logits, or (B, T) of several tasks."""

    def __init__(self, spec: FeatureSpec, config: DinConfig) -> None:
        super().__init__()
        d, a, heads = config.width, config.attention, config.heads
        self.config, self.history, self.tasks = config, spec.history, spec.tasks
        self.collator = RowCollator()
        self.item = nn.Embedding(spec.item_rows, d, padding_idx=0)
        self.category = nn.Embedding(spec.categories.size, d, padding_idx=0)
        self.attributes = nn.ModuleList(nn.Embedding(column.size, d, padding_idx=0) for column in spec.item_columns)
        self.profile = nn.ModuleList(nn.Embedding(column.size, config.profile) for column in spec.user_columns)
        self.modalities = item_modalities(spec.item_modalities, d)
        self.value = nn.Embedding(spec.value_rows, a + d)
        self.label = nn.Embedding(LABEL_ROWS, a + d)
        self.action = nn.Embedding(spec.actions.size, a + d)
        self.gap = nn.Embedding(GAP_ROWS, a + d)
        self.from_history = nn.Linear(d, a + d)  # A, and the values that attention sums
        self.from_target = nn.Linear(d, a, bias=False)  # B
        self.from_product = nn.Linear(d, a, bias=False)  # C
        self.weigh = nn.Linear(a, heads)
        self.fusion = InterestFusion(spec.text_width, d, spec.partitions) if config.interest else None
        self.scene = offered_scene(spec, config.profile)
        if self.scene is not None:
            self.history_scene = nn.Embedding(spec.scenes.size, a + d)
            self.from_scene = nn.Embedding(spec.scenes.size, a)  # what the offer's scene adds to attention
        inputs = d * (2 + heads) + config.profile * len(spec.user_columns) + len(spec.dense)
        inputs += 96 if config.interest else 0
        inputs += config.profile if self.scene is not None else 0
        self.keys = KeyReader(spec) if config.keys else None
        inputs += self.keys.width if self.keys is not None else 0
        many, ends = len(spec.tasks), (len(spec.dense), config.hidden, config.dropout)
        self.tower = towers(many, inputs, *ends)
        self.dense_path = dense_paths(many, *ends) if config.dense_path else None
        self._start()

    def _start(self) -> None:
        own = set(self.keys.modules()) if self.keys is not None else set()
        for module in self.modules():
            if isinstance(module, nn.Embedding) and module not in own:
                nn.init.normal_(module.weight, std=0.01)
                if module.padding_idx is not None:
                    nn.init.zeros_(module.weight[module.padding_idx])

    def items(self, batch: Batch) -> Tensor:
        """(M, d): every distinct item of the batch: id, the mean of its categories, attributes and modalities."""
        kinds = (batch.item_categories > 0).sum(dim=1, keepdim=True).clamp(min=1)
        named = F.embedding_bag(
            batch.item_categories, self.category.weight, mode="sum", padding_idx=0
        )  # never (M, C, d)
        x: Tensor = self.item(batch.item_row) + named / kinds
        for column, embedding in enumerate(self.attributes):
            x = x + embedding(batch.item_attributes[:, column])
        if self.modalities is not None and batch.item_vectors is not None:
            x = x + self.modalities(batch.item_vectors)
        return x

    def forward(self, batch: Batch) -> Tensor:
        items = self.items(batch)  # (M, d)
        target = F.embedding(batch.target, items)  # (B, d)
        d, a = self.config.width, self.config.attention
        mask = (batch.history > 0).unsqueeze(-1)  # (B, L, 1); this and the next have one row where all share a history
        events = F.embedding(batch.history, torch.cat([items, self.from_history(items)], dim=1))  # (B, L, d + a + d)
        item, bare = torch.split(events, [d, a + d], dim=2)
        feedback, scene = self._feedback(batch), None
        if self.scene is not None and batch.scene is not None and batch.history_scene is not None:
            scene = self.scene.hide(batch.scene)
            feedback = feedback + self.history_scene(batch.history_scene)
        match, value = torch.split(bare + feedback, [a, d], dim=2)
        match = meet_target(self.from_product, self.from_target, item, match, target)
        if scene is not None:
            match = match + self.from_scene(scene)[:, None]
        weights = self.weigh(silu(match)) / self.history**0.5  # no softmax: the intensity is kept (section 4.3)
        even = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)  # one head more: the plain mean
        inputs: list[Input] = [target, *_pooled(weights * mask, even, F.silu(value)), batch.dense]
        profile = [embedding(batch.profile[:, column]) for column, embedding in enumerate(self.profile)]
        inputs += [of_user(part, target) for part in profile]
        if self.fusion is not None:
            inputs += self.fusion.inputs(batch, target)
        if self.scene is not None and scene is not None:
            inputs.append(self.scene(scene))
        if self.keys is not None:
            inputs.append(self.keys(batch.keys, scene))
        logit: Tensor = self.tower(inputs, batch.dense)
        return logit if self.dense_path is None else logit + self.dense_path(batch.dense)

    def loss(self, batch: Batch, labels: Tensor) -> Loss:
        return ctr_only(self.tasks, self(batch), labels)

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        return ()

    def load_outside(self, _llm: Path | None) -> DinConfig:
        return self.config

    def _feedback(self, batch: Batch) -> Tensor:
        """(B, L, a + d): what the user made of each past event and how long ago, one gather from all combinations."""
        gap = self.gap.weight
        action = (self.action.weight[:, None] + gap).flatten(0, 1)
        label = (self.label.weight[:, None] + action).flatten(0, 1)
        table = (self.value.weight[:, None] + label).flatten(0, 1)
        code = (batch.value * LABEL_ROWS + batch.label) * (self.action.num_embeddings * GAP_ROWS)
        feedback: Tensor = F.embedding(code + batch.action * GAP_ROWS + batch.gap, table)
        return feedback


def _pooled(weights: Tensor, even: Tensor, value: Tensor) -> list[Input]:
    """Sums of the past's values (B, L, d) by every head's weights (B, L, heads) and by `even` (B, L, 1).

    Of a past that all share, `even` and values have one row, and its plain mean is the same for all.
    """
    if len(value) > 1 or len(weights) == 1:
        return [(torch.cat([weights, even], dim=2).transpose(1, 2) @ value).flatten(1)]
    own = weights.transpose(1, 2) @ value[0]  # (B, heads, d)
    return [own.flatten(1), of_user((even.transpose(1, 2) @ value).flatten(1), own)]
