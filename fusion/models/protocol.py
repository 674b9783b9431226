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
from fusion.features.tasks import Task, Tasks
from fusion.models.tower import DensePath, DensePaths
from fusion.models.uif import InterestFusion

ModelConfig = msgspec.Struct  # the frozen record that a model is built from, kept in its artifact


class Loss(NamedTuple):
    """Summed over the rows of a batch, which may be none."""

    ctr: Tensor  # of the task: what a run reports; of several tasks (T,), before their weights
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
    """A torch module that scores impressions, for the tasks of the FeatureSpec that it is built with."""

    @property
    def collator(self) -> Collator:
        """Makes the batches that this model reads: which samples share one, and what is gathered for them."""

    @property
    def fusion(self) -> InterestFusion | None:
        """The network that makes user vectors of interests; None where the model reads none."""

    @property
    def dense_path(self) -> DensePath | DensePaths | None:
        """What reads the dense features alone, a network for each task, fitted first; None where there is none."""

    def __call__(self, batch: Any) -> Tensor:
        """(B,) logits of a batch that the model's collator made; of several tasks (B, T), see `predictions`."""

    def loss(self, batch: Any, labels: Tensor) -> Loss:
        """Of a batch in training, with labels (B,) 0/1, or targets (B, T) of several tasks, NaN where there is none."""

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


def task_losses(tasks: Tasks, outputs: Tensor, targets: Tensor) -> Tensor:
    """(T,): each task's loss, summed over the rows (B,) on which it has a target, the mean over heads.

    outputs: (B, T) or (B, heads, T). targets: (B, T), NaN where there is none. A yes or no has the cross-entropy of its
    logit, a number half the squared error of its standardised value: what a normal distribution of deviation 1 has.
    """
    heads = outputs if outputs.dim() == 3 else outputs[:, None]
    there = ~torch.isnan(targets)
    wanted = torch.where(there, targets, 0.0)
    losses = []
    for number, task in enumerate(tasks):
        out = heads[..., number]
        goal = wanted[:, number, None].expand_as(out)
        if task.rule.is_number:
            mean, deviation = scale_of(task)
            each = 0.5 * (out - (goal - mean) / deviation) ** 2
        else:
            each = F.binary_cross_entropy_with_logits(out, goal, reduction="none")
        losses.append((each * there[:, number, None]).sum() / heads.shape[1])
    return torch.stack(losses)


def loss_of(tasks: Tasks, outputs: Tensor, labels: Tensor) -> Tensor:
    """`Loss.ctr` of a model's outputs: of one task by its labels (B,), of several by their targets (B, T)."""
    return summed_loss(outputs, labels) if labels.dim() == 1 else task_losses(tasks, outputs, labels)


def ctr_only(tasks: Tasks, logits: Tensor, labels: Tensor) -> Loss:
    """The loss of a model that learns nothing beside its tasks."""
    return Loss(loss_of(tasks, logits, labels), logits.new_zeros(()))


def predictions(tasks: Tasks, outputs: Tensor) -> Tensor:
    """float64: probabilities of outputs (B,), or of each task's (B, T): its probability, or the number it expects."""
    exact = outputs.double()
    if len(tasks) == 1:
        return torch.sigmoid(exact)
    columns = []
    for number, task in enumerate(tasks):
        mean, deviation = scale_of(task)
        own = exact[:, number]
        columns.append(mean + deviation * own if task.rule.is_number else torch.sigmoid(own))
    return torch.stack(columns, dim=1)


def scale_of(task: Task) -> tuple[float, float]:
    """Mean and deviation by which a number is standardised."""
    return (0.0, 1.0) if isinstance(task.scale, msgspec.UnsetType) else task.scale
