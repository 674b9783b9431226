"""Reads a user's keys for a candidate: DIN attention over key vectors, and the multidimensional partition (2104.06312).

The candidate is the sum of its own keys' embeddings, the scene of the offer among them. Attention (DIN, section 4.3)
weighs the user's recent and frequent keys of every kind, each an embedding plus what a network makes of its vector; the
keys that the candidate has itself are read beside them, exactly. The partition divides the past by period and bucket of
categories: each cell is a vector, periods are pooled over their buckets and the candidate's buckets over periods, and
all of these interact in products.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.features.keys.spec import SCENE
from fusion.features.keys.state import PERIODS
from fusion.features.keys.vectors import KeyBatch, Layout
from fusion.features.spec import UNKNOWN, FeatureSpec
from fusion.models.attention import meet_target, silu
from interest.errors import ArtifactError

CELL = 3  # numbers of a cell
AS_UNKNOWN = 0.02  # share of keys that training shows as unknown, so that an unknown one means something


class KeyReader(nn.Module):
    """A `KeyBatch` becomes (B, width)."""

    def __init__(self, spec: FeatureSpec, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        if spec.keys is None:
            raise ArtifactError("the feature spec has no keys; train again with --keys")
        layout, d = Layout(spec), width
        self.heads, self.slots = heads, layout.kinds * layout.each
        self.key = nn.Embedding(layout.rows, d, padding_idx=0)
        self.vector = nn.Sequential(nn.Linear(layout.features, 2 * d), nn.SiLU(), nn.Linear(2 * d, d))
        self.from_key = nn.Linear(d, 2 * d)  # attention's A, and the values that it sums
        self.from_target = nn.Linear(d, d, bias=False)  # B
        self.from_product = nn.Linear(d, d, bias=False)  # C
        self.weigh = nn.Linear(d, heads)
        self.match = nn.Linear(d + layout.features, d)
        self.cell = nn.Linear(CELL, d)
        self.bucket, self.period = nn.Embedding(spec.keys.grid, d), nn.Embedding(PERIODS, d)
        self.seek_bucket, self.seek_period = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        kind = torch.from_numpy(layout.matched_kind)
        by_kind = F.one_hot(kind, layout.kinds).float()
        used = by_kind.sum(dim=0) > 0
        self.by_kind: Tensor
        self.register_buffer("by_kind", by_kind[:, used], persistent=False)  # (X, kinds that a candidate has)
        self.of_scene: Tensor
        of_scene = torch.tensor([name == SCENE for name in spec.keys.kinds])[kind]
        self.register_buffer("of_scene", of_scene, persistent=False)  # (X,) bool
        offsets = torch.from_numpy(layout.offsets[:-1]).int()
        self.unknown: Tensor
        self.unknown_matched: Tensor
        self.register_buffer("unknown", (offsets + UNKNOWN).repeat_interleave(layout.each), persistent=False)
        self.register_buffer("unknown_matched", offsets[kind] + UNKNOWN, persistent=False)
        kinds = int(used.sum())
        points = PERIODS + 2
        self.register_buffer("pair", torch.triu_indices(points, points, 1), persistent=False)
        self.pair: Tensor
        self.width = heads * d + kinds * (d + layout.features) + d + points * (points - 1) // 2 + PERIODS * CELL
        for embedding in (self.key, self.bucket, self.period):
            nn.init.normal_(embedding.weight, std=0.05)
        with torch.no_grad():
            self.key.weight[0] = 0.0

    def forward(self, keys: KeyBatch, scene: Tensor | None = None) -> Tensor:
        """(B, width). scene: (B,) where the candidates are offered as training shows it (`OfferedScene.hide`)."""
        target, matched = self._matched(keys, scene)
        return torch.cat([self._attend(keys, target), matched, self._partition(keys, target)], dim=1)

    def _matched(self, keys: KeyBatch, scene: Tensor | None) -> tuple[Tensor, Tensor]:
        """The candidate (B, d), and what the user made of its own keys (B, kinds (d + F))."""
        rows = keys.matched_row
        if scene is not None:  # what is hidden beside the keys is not told by them
            rows = rows.masked_fill(self.of_scene & (scene <= UNKNOWN)[:, None], 0)
        rows = self._shown(rows, self.unknown_matched)
        embedded = self.key(rows)  # (B, X, d)
        there = (rows > 0).float() @ self.by_kind  # (B, kinds)
        share = self.by_kind / there.clamp(min=1)[:, None, :] * (rows > 0)[..., None]  # (B, X, kinds): means
        share = share.transpose(1, 2)
        target = (share @ embedded).sum(dim=1)
        read = F.silu(self.match(torch.cat([embedded, keys.matched], dim=2)))
        return target, (share @ torch.cat([read, keys.matched], dim=2)).flatten(1)

    def _attend(self, keys: KeyBatch, target: Tensor) -> Tensor:
        """(B, heads d)."""
        rows = self._shown(keys.attended_row, self.unknown)
        met = keys.attended[..., :1] > 0  # (B or 1, S, 1)
        key = self.key(rows) + self.vector(keys.attended)
        match, value = self.from_key(key).chunk(2, dim=2)
        match = meet_target(self.from_product, self.from_target, key, match, target)
        weights = self.weigh(silu(match)) * met / self.slots**0.5  # no softmax, as in DIN
        value = F.silu(value)
        pooled = weights.transpose(1, 2) @ (value[0] if len(value) == 1 else value)
        return cast(Tensor, pooled.flatten(1))

    def _partition(self, keys: KeyBatch, target: Tensor) -> Tensor:
        """(B, d + pairs + PERIODS CELL)."""
        filled = keys.cells[..., :1] > 0  # (B or 1, T, G, 1)
        place = self.period.weight[:, None] + self.bucket.weight  # (T, G, d)
        cells = F.silu(self.cell(keys.cells) + place) * filled
        one = len(cells) == 1
        of_bucket = torch.einsum("xtgd,bd->btg" if one else "btgd,bd->btg", cells, self.seek_bucket(target))
        of_bucket = torch.softmax(of_bucket.masked_fill(~filled[..., 0], -1e4), dim=2)
        periods = torch.einsum("btg,xtgd->btd" if one else "btg,btgd->btd", of_bucket, cells)  # (B, T, d)
        own = keys.buckets / keys.buckets.sum(dim=1, keepdim=True).clamp(min=1)  # (B, G)
        mine = torch.einsum("bg,xtgd->btd" if one else "bg,btgd->btd", own, cells)  # (B, T, d), of its own buckets
        over = torch.softmax((mine * self.seek_period(target)[:, None]).sum(dim=2), dim=1)
        own_bucket = (over[..., None] * mine).sum(dim=1)  # (B, d)
        points = torch.cat([target[:, None], own_bucket[:, None], periods], dim=1)
        products = points @ points.transpose(1, 2)
        raw = torch.einsum("bg,xtgc->btc" if one else "bg,btgc->btc", own, keys.cells)
        return torch.cat([own_bucket, products[:, self.pair[0], self.pair[1]], raw.flatten(1)], dim=1)

    def _shown(self, rows: Tensor, unknown: Tensor) -> Tensor:
        """In training some keys are shown as unknown ones of their kind."""
        if not self.training:
            return rows
        hidden = (torch.rand(rows.shape, device=rows.device) < AS_UNKNOWN) & (rows > 0)
        return torch.where(hidden, unknown.to(rows.dtype), rows)
