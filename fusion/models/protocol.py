"""What training, artifacts and scoring ask of a CTR model. Who adds one implements this, and adds a row to registry.py.

Nothing is set on a model after it was built, and no batch is changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.features.collate import Collator
from fusion.models.tower import DensePath
from fusion.models.uif import InterestFusion

ModelConfig = msgspec.Struct  # the frozen record that a model is built from, kept in its artifact


class Loss(NamedTuple):
    """Summed over the rows of a batch, which may be none."""

    ctr: Tensor  # of the task: what a run reports
    extra: Tensor  # of all that the model learns beside it, weighted


class Network(Protocol):
    """The part of `torch.nn.Module` that optimisers, checkpoints and artifacts use."""

    training: bool

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...

    def to(self, device: torch.device) -> Any: ...


class CtrModel(Network, Protocol):
    """A torch module that scores impressions."""

    @property
    def collator(self) -> Collator:
        """Makes the batches that this model reads: which samples share one, and what is gathered for them."""

    @property
    def fusion(self) -> InterestFusion | None:
        """The network that makes user vectors of interests; None where the model reads none."""

    @property
    def dense_path(self) -> DensePath | None:
        """The network that reads the dense features alone, and is fitted first; None where the model has none."""

    def __call__(self, batch: Any) -> Tensor:
        """(B,) logits of a batch that the model's collator made."""

    def loss(self, batch: Any, labels: Tensor) -> Loss:
        """Of a batch in training, with labels (B,) 0/1."""

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        """Those that another training may have begun: `TrainConfig.pretrained_rate` is their learning rate's share."""

    def load_outside(self, llm: Path | None) -> Any:
        """Load what the artifact does not hold; return the model's config, with where that was.

        llm: where its language model is, if not where it was in training. Raises ArtifactError where it is not there.
        """


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (B,) or (B, heads) against (B,) 0/1, summed over rows, which may be none.

    It is the mean over heads: each learns for itself, whatever scoring makes of them.
    """
    heads = logits if logits.dim() == 2 else logits[:, None]
    targets = labels[:, None].expand_as(heads)
    return F.binary_cross_entropy_with_logits(heads, targets, reduction="sum") / heads.shape[1]


def ctr_only(logits: Tensor, labels: Tensor) -> Loss:
    """The loss of a model that learns nothing beside the task."""
    return Loss(summed_loss(logits, labels), logits.new_zeros(()))
