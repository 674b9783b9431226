"""Key-vector (Non-sequential Deep Interest, arXiv 2104.06312): the user is a sparse map of keys, not a sequence.

What differs from the paper: keys are of several kinds at once, their vectors hold values and outcomes beside counts and
recency, and the state is what a stream can keep (fusion/features/keys/state.py). Which keys attention reads does not
grow with the past: the recent and the frequent ones of each kind, and all that the candidate has itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import msgspec
import torch
from torch import Tensor, nn

from fusion.features.collate import RowCollator
from fusion.features.samples import Batch
from fusion.features.spec import FeatureSpec
from fusion.models.kv.reader import KeyReader
from fusion.models.modalities import item_modalities
from fusion.models.protocol import Loss, ctr_only
from fusion.models.scenes import offered_scene
from fusion.models.tower import Input, dense_paths, of_user, towers
from fusion.models.uif import WIDTH, InterestFusion


class KvConfig(msgspec.Struct, frozen=True, kw_only=True):
    width: int = 16  # d, of a key
    heads: int = 2
    profile: int = 8
    hidden: tuple[int, ...] = (200, 80)
    dropout: float = 0.2
    dense_path: bool = False  # the dense features have a network of their own beside the tower, fitted first
    interest: bool = False


class Kv(nn.Module):
    """Scores impressions: `forward(batch) -> (B,)` logits, or (B, T) of several tasks. The history is not read."""

    def __init__(self, spec: FeatureSpec, config: KvConfig) -> None:
        super().__init__()
        self.config, self.history, self.tasks = config, spec.history, spec.tasks
        self.collator = RowCollator()
        self.keys = KeyReader(spec, config.width, config.heads)
        d = config.width
        self.item = nn.Embedding(spec.item_rows, d, padding_idx=0)
        self.modalities = item_modalities(spec.item_modalities, d)
        self.profile = nn.ModuleList(nn.Embedding(column.size, config.profile) for column in spec.user_columns)
        self.fusion = InterestFusion(spec.text_width, d, spec.partitions) if config.interest else None
        inputs = d + self.keys.width + config.profile * len(spec.user_columns) + len(spec.dense)
        inputs += 3 * WIDTH if config.interest else 0
        self.scene = offered_scene(spec, config.profile)
        inputs += config.profile if self.scene is not None else 0
        many, ends = len(spec.tasks), (len(spec.dense), config.hidden, config.dropout)
        self.tower = towers(many, inputs, *ends)
        self.dense_path = dense_paths(many, *ends) if config.dense_path else None
        for embedding in (self.item, *(cast(nn.Embedding, one) for one in self.profile)):
            nn.init.normal_(embedding.weight, std=0.01)
        with torch.no_grad():
            self.item.weight[0] = 0.0

    def forward(self, batch: Batch) -> Tensor:
        assert batch.keys is not None
        items = self.item(batch.item_row)  # (M, d)
        if self.modalities is not None and batch.item_vectors is not None:
            items = items + self.modalities(batch.item_vectors)
        target = items[batch.target.long()]  # (B, d)
        scene = None if self.scene is None or batch.scene is None else self.scene.hide(batch.scene)
        inputs: list[Input] = [target, self.keys(batch.keys, scene), batch.dense]
        profile = [embedding(batch.profile[:, column]) for column, embedding in enumerate(self.profile)]
        inputs += [of_user(part, target) for part in profile]
        if self.fusion is not None:
            inputs += self.fusion.inputs(batch, target)
        if self.scene is not None and scene is not None:
            inputs.append(self.scene(scene))
        logit: Tensor = self.tower(inputs, batch.dense)
        return logit if self.dense_path is None else logit + self.dense_path(batch.dense)

    def loss(self, batch: Batch, labels: Tensor) -> Loss:
        return ctr_only(self.tasks, self(batch), labels)

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        return ()

    def load_outside(self, _llm: Path | None) -> KvConfig:
        return self.config
