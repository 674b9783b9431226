"""What ends every CTR model here: hidden layers over all that it has read, a linear path and a network of their own for
the dense features. Of several tasks each has its own of both; what they read is shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Shared(NamedTuple):
    """An input that is the same for many rows, such as a user's state for all of their candidates."""

    values: Tensor  # (G, w)
    row: Tensor  # (B,) integers into the G

    def expanded(self) -> Tensor:
        """(B, w)."""
        return F.embedding(self.row, self.values)


class Mapped(NamedTuple):
    """An input that is one linear map, for all rows, of a vector that is an input too: what one user makes of items."""

    of: Tensor  # (B, v), the very tensor that is among the inputs
    weight: Tensor  # (w, v)
    bias: Tensor  # (w,)

    def expanded(self) -> Tensor:
        """(B, w)."""
        return F.linear(self.of, self.weight, self.bias)


Input = Tensor | Shared | Mapped


class Folded(NamedTuple):
    """A tower's first layer, once all that is shared or mapped is in it."""

    weight: Tensor  # (h, o), for what is each row's own, o wide together
    bias: Tensor  # (G, h), or (1, h) without anything shared


def of_user(values: Tensor, candidates: Tensor) -> Input:
    """Values (B, w) of B candidates' users, of which there is one row (1, w) where all candidates are one user's."""
    if len(values) == len(candidates):
        return values
    return Shared(values, torch.zeros(len(candidates), dtype=torch.int64, device=values.device))


class DensePath(nn.Module):
    """The dense features (B, F) alone become a logit (B,), to which the rest of a model adds its own.

    Counts and match scalars say most of what is known on a small log, and it takes several passes to learn it, after
    the first of which item embeddings begin to know the training rows by heart (the one-epoch phenomenon: Zhang et
    al., CIKM 2022). So this path is fitted first, by itself (fusion/training/dense_path.py).
    """

    def __init__(self, dense: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = dense
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.SiLU(), nn.Dropout(dropout)]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, 1))

    def forward(self, dense: Tensor) -> Tensor:
        logit: Tensor = self.layers(dense)
        return logit[:, 0]


class Tower(nn.Module):
    """Inputs, I wide together, and dense features (B, F), which are among them too, become logits (B,).

    What is shared goes through its columns of the first layer once for every distinct row, and a mapped input through
    the map's product with its columns, which is added to those of the vector that it is a map of.
    """

    def __init__(self, inputs: int, dense: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.SiLU(), nn.Dropout(dropout)]
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(inputs, 1)
        self.linear = nn.Linear(dense, 1, bias=False)  # the counts alone are a fair model: it begins as one of nothing
        self.width = inputs  # of what `read` returns
        nn.init.zeros_(self.linear.weight)

    def forward(self, inputs: Sequence[Input], dense: Tensor) -> Tensor:
        return self.logits(self.read(inputs), dense)

    def read(self, inputs: Sequence[Input]) -> Tensor:
        """(B, width): what the last layer sees. Inputs are (B, w), or (G, w) of which each row has one; G is the same
        for all.
        """
        if len(self.layers) == 0 or all(isinstance(one, Tensor) for one in inputs):
            whole = [one if isinstance(one, Tensor) else one.expanded() for one in inputs]
            return cast(Tensor, self.layers(torch.cat(whole, dim=1)))
        ((weight, bias),) = self.fold(inputs)
        if len(bias) > 1:
            bias = F.embedding(next(one.row for one in inputs if isinstance(one, Shared)), bias)
        own = torch.cat([one for one in inputs if isinstance(one, Tensor)], dim=1)
        return cast(Tensor, self.layers[1:](F.linear(own, weight).add_(bias)))

    def fold(self, inputs: Sequence[Input]) -> tuple[Folded]:
        """The first layer for what is each row's own, whose number of rows does not matter here: it may be 0."""
        first = cast(nn.Linear, self.layers[0])
        columns = list(zip(inputs, torch.split(first.weight, [_width(one) for one in inputs], dim=1), strict=True))
        maps = [(one, weight) for one, weight in columns if isinstance(one, Mapped)]
        bias = first.bias + sum(weight @ one.bias for one, weight in maps)
        apart = [
            weight + sum(of_map @ mapped.weight for mapped, of_map in maps if mapped.of is one)
            for one, weight in columns
            if isinstance(one, Tensor)
        ]
        shared = [one.values for one in inputs if isinstance(one, Shared)]
        if shared:
            ours = torch.cat([weight for one, weight in columns if isinstance(one, Shared)], dim=1)
            bias = F.linear(torch.cat(shared, dim=1), ours, bias)
        return (Folded(torch.cat(apart, dim=1), bias if shared else bias[None]),)

    def read_folded(self, own: Tensor, folded: Sequence[Folded]) -> Tensor:
        """(B, width) of one user's candidates, from what is each one's own, (B, o), and the one of `fold`."""
        return cast(Tensor, self.layers[1:](F.linear(own, folded[0].weight, folded[0].bias[0])))

    def logits(self, hidden: Tensor, dense: Tensor) -> Tensor:
        logit: Tensor = self.last(hidden) + self.linear(dense)
        return logit[:, 0]


def _width(one: Input) -> int:
    if isinstance(one, Mapped):
        return len(one.weight)
    return (one.values if isinstance(one, Shared) else one).shape[1]


class PerTask(nn.Module):
    """Task i's part is `each[i]`, whose parameters are that task's own; what they return is stacked.

    Through the stack every task's loss reaches all parts, the others' with gradients of zero.
    """

    each: nn.ModuleList

    @staticmethod
    def owners(model: Iterable[nn.Module]) -> dict[nn.Parameter, int]:
        """Of a model's modules: whose parameters are a task's own, and which task's."""
        return {
            weight: task
            for module in model
            if isinstance(module, PerTask)
            for task, part in enumerate(module.each)
            for weight in part.parameters()
        }


class Towers(PerTask):
    """A tower for each of T tasks, over the same inputs and dense features (B, F): logits (B, T)."""

    def __init__(self, tasks: int, inputs: int, dense: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.each = nn.ModuleList(Tower(inputs, dense, hidden, dropout) for _ in range(tasks))
        self.width = hidden[-1] if hidden else inputs  # of each task's part of what `read` returns

    def forward(self, inputs: Sequence[Input], dense: Tensor) -> Tensor:
        return self.logits(self.read(inputs), dense)

    def read(self, inputs: Sequence[Input]) -> Tensor:
        """(B, T, width): what the towers' last layers see."""
        return torch.stack([cast(Tower, tower).read(inputs) for tower in self.each], dim=1)

    def fold(self, inputs: Sequence[Input]) -> tuple[Folded, ...]:
        """Each tower's."""
        return tuple(cast(Tower, tower).fold(inputs)[0] for tower in self.each)

    def read_folded(self, own: Tensor, folded: Sequence[Folded]) -> Tensor:
        """(B, T, width)."""
        parts = zip(self.each, folded, strict=True)
        return torch.stack([cast(Tower, tower).read_folded(own, [part]) for tower, part in parts], dim=1)

    def logits(self, hidden: Tensor, dense: Tensor) -> Tensor:
        parts = zip(self.each, hidden.unbind(dim=1), strict=True)
        return torch.stack([cast(Tower, tower).logits(own, dense) for tower, own in parts], dim=1)


class DensePaths(PerTask):
    """A dense path for each of T tasks: dense features (B, F) become logits (B, T)."""

    def __init__(self, tasks: int, dense: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.each = nn.ModuleList(DensePath(dense, hidden, dropout) for _ in range(tasks))

    def forward(self, dense: Tensor) -> Tensor:
        return torch.stack([path(dense) for path in self.each], dim=1)


def towers(tasks: int, inputs: int, dense: int, hidden: tuple[int, ...], dropout: float) -> Tower | Towers:
    """One tower for one task, one each for several."""
    return Tower(inputs, dense, hidden, dropout) if tasks == 1 else Towers(tasks, inputs, dense, hidden, dropout)


def dense_paths(tasks: int, dense: int, hidden: tuple[int, ...], dropout: float) -> DensePath | DensePaths:
    """One dense path for one task, one each for several."""
    return DensePath(dense, hidden, dropout) if tasks == 1 else DensePaths(tasks, dense, hidden, dropout)
