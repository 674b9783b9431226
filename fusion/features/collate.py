"""How a model wants its samples: which of them make a batch, and what is gathered for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from fusion.features.log import Array
from fusion.features.samples import Batch, Samples

SCORE_AT_ONCE = 1024  # moments per scoring batch: 80 MB of DIN's activations at a history of 50, as in training


@dataclass(frozen=True, slots=True)
class BatchIndices:
    """B samples that go into one batch; those that share a window are next to each other, oldest first."""

    rows: Array  # (B,) int64
    sizes: Array  # (G,) int64: samples per window

    def __len__(self) -> int:
        return len(self.rows)


class ModelBatch(Protocol):
    """What every model's batch has, whatever else is in it."""

    @property
    def item_row(self) -> Tensor:
        """(M,) embedding rows of a batch's distinct items."""

    def with_item_row(self, item_row: Tensor) -> Self:
        """The batch with other embedding rows for its items."""


class Collator(Protocol):
    def epoch(
        self, samples: Samples, /, rows: Array, size: int, rng: np.random.Generator, processes: int
    ) -> Iterator[list[BatchIndices]]:
        """The batches of an epoch, at most `size` rows each; of every batch, each process's share."""

    def score_batches(self, samples: Samples, /, rows: Array) -> Iterator[BatchIndices]:
        """Places in `rows`, in parts to be scored at once."""

    def collate(self, samples: Samples, chosen: BatchIndices) -> Any:
        """What the model's `forward` reads. It has `item_row`, the embedding rows of the batch's distinct items."""


class RowCollator:
    """Every sample on its own, with its own history."""

    def epoch(
        self, _samples: Samples, /, rows: Array, size: int, rng: np.random.Generator, processes: int
    ) -> Iterator[list[BatchIndices]]:
        order = rng.permutation(rows)
        for batch in cut(order, size, processes):
            yield [_alone(share) for share in np.array_split(batch, processes)]

    def score_batches(self, _samples: Samples, /, rows: Array) -> Iterator[BatchIndices]:
        for start in range(0, len(rows), SCORE_AT_ONCE):
            yield _alone(np.arange(start, min(start + SCORE_AT_ONCE, len(rows))))

    def collate(self, samples: Samples, chosen: BatchIndices) -> Batch:
        return samples.batch(chosen.rows)


def cut(order: Array, size: int, least: int) -> list[Array]:
    """`order` in pieces of `size`; a last piece of fewer than `least` joins the one before it."""
    bounds = list(range(size, len(order), size))
    if bounds and len(order) - bounds[-1] < least:
        bounds.pop()
    return np.split(order, bounds)


T = TypeVar("T")


def to_device(batch: T, device: torch.device) -> T:
    """A batch with all its tensors on a device."""
    if device.type == "cpu":
        return batch
    moved: T = _moved(batch, device)
    return moved


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: _moved(getattr(value, field.name), device) for field in fields(value)})
    return value


def _alone(rows: Array) -> BatchIndices:
    return BatchIndices(rows, np.ones(len(rows), np.int64))
