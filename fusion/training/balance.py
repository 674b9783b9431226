"""How the gradients of several tasks become one step: the tasks' own parameters take their plain gradients, those that
several tasks reach take a weighted sum, whose weights a balancer gives by the gradients' Gram matrix alone.

Ours is GDOD (fusion/training/gdod.py), and MGDA's quadratic program; its other peers are torchjd's
(github.com/TorchJD/torchjd), those that keep no state between steps, so that a run resumed from a checkpoint takes the
steps of one that was never stopped. What a balancer draws at random it draws from (seed, step): every process of a
distributed run draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from fusion.models.protocol import Network
from fusion.models.tower import PerTask
from fusion.training.distributed import ALONE, Processes
from fusion.training.gdod import shared_weights
from interest.errors import InputError

Balance = Literal[
    "sum", "gdod", "gdod-pure", "gdod-pcgrad", "gdod-lengths",
    "pcgrad", "cagrad", "mgda", "imtl-g", "aligned-mtl", "upgrad", "dualproj",
    "gdod-unit",  # what `gdod` was called until it became the default form
]  # fmt: skip
NAMES: tuple[Balance, ...] = tuple(name for name in get_args(Balance) if name != "gdod-unit")
CAUTION = 0.5  # of CAGrad, c: its paper's
# from a Gram matrix (T, T) float64, of gradients that are not zero, and the tasks' weights (T,) to those of a sum (T,)
Weights = Callable[[Tensor, Tensor], Tensor]
OfGram = Callable[[Tensor], Tensor]
FIXED = ("mgda", "imtl-g", "aligned-mtl")  # bring gradients to shares of their own, whatever the tasks' weights
EXACT = 1e-9  # what is added to the Gram matrix' diagonal, of its trace, for a solver that needs it
NEGLIGIBLE = 1e-12  # of the gradients' squared lengths: an update of less is zero


def balance_named(name: str, preference: Sequence[float] = ()) -> Balance:
    """A balancer that is there, and heeds the tasks' weights. Raises InputError, also where its library is missing."""
    known: Balance
    for known in get_args(Balance):
        if known == name:
            weights_by(known)
            if name in FIXED and len(set(preference)) > 1:
                raise InputError(
                    f"--balance {name} gives tasks shares of its own, whatever their weights; leave out @WEIGHT, or "
                    "take another balancer"
                )
            return known
    raise InputError(f"--balance {name}: no such way; give one of {', '.join(NAMES)}")


class Step(NamedTuple):
    """What was seen in one step."""

    conflict: bool  # the gradients of two tasks point apart
    zero: bool  # the balancer left nothing of gradients that were not zero, before any fallback


class Balancer:
    """Gives tasks' gradients one direction. Its counts are of the steps since it was made, or since `reset`."""

    def __init__(self, name: Balance, seed: int = 0, preference: Sequence[float] | None = None) -> None:
        """preference: the tasks' weights, by which the losses are multiplied already; None: they are all 1.

        Raises InputError where the library that it comes from is not there.
        """
        self.name, self._seed, self._preference = name, seed, preference
        self._weights, self._fallback = weights_by(name)
        self.gram = torch.zeros(0, 0, dtype=torch.float64)  # of the last step
        self.reset()

    def reset(self) -> None:
        self.steps = self.conflicts = self.zeros = 0

    def gradients(self, model: Network, losses: Sequence[Tensor], step: int = 0, dist: Processes = ALONE) -> Step:
        """Set the gradient of every parameter from the tasks' losses, each a share's of the whole batch.

        One backward pass of the shared part for each task. A parameter that one task alone reaches, such as its tower,
        has its plain gradient, one that no task reaches has none.
        """
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        owners = PerTask.owners(model.modules())
        own = []
        for task, loss in enumerate(losses):
            read = [weight for weight in trained if owners.get(weight, task) == task]
            made = torch.autograd.grad(loss, read, retain_graph=task + 1 < len(losses), allow_unused=True)
            known = dict(zip(read, dist.summed(read, made), strict=True))
            own.append([known.get(weight) for weight in trained])
        shared: list[tuple[nn.Parameter, list[Tensor | None]]] = []
        for weight, *each in zip(trained, *own, strict=True):
            reaching = [gradient for gradient in each if gradient is not None]
            weight.grad = reaching[0] if len(reaching) == 1 else None
            if len(reaching) > 1:
                shared.append((weight, each))
        self.gram = gram = gram_of([each for _, each in shared], len(losses))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed * 1_000_003 + step)
            weights, seen = self.weights(gram)
        for weight, each in shared:
            update = torch.zeros_like(weight)
            for share, gradient in zip(weights.tolist(), each, strict=True):
                if gradient is not None and share:
                    update.add_(gradient, alpha=share)
            weight.grad = update
        self.steps += 1
        self.conflicts += seen.conflict
        self.zeros += seen.zero
        return seen

    def weights(self, gram: Tensor) -> tuple[Tensor, Step]:
        """(T,) float64 of a Gram matrix (T, T): what each task's gradient counts in their sum, and what was seen.

        A task without a gradient, of a batch that has none of its labels, changes nothing.
        """
        there, out = gram.diagonal() > 0, torch.zeros(len(gram), dtype=torch.float64)
        if not there.any():
            return out, Step(conflict=False, zero=False)
        own, preference = gram[there][:, there], torch.ones(int(there.sum()), dtype=torch.float64)
        if self._preference is not None:
            preference = torch.tensor(self._preference, dtype=torch.float64)[there]
        weights = self._weights(own, preference)
        zero = float(weights @ own @ weights) <= NEGLIGIBLE * float(own.diagonal().sum())
        if zero and self._fallback is not None:
            weights = self._fallback(own, preference)
        out[there] = weights
        return out, Step(conflict=bool((own < 0).any()), zero=zero)


def gram_of(gradients: Sequence[Sequence[Tensor | None]], tasks: int) -> Tensor:
    """(T, T) float64: the products of T tasks' gradients, which are given by parameter."""
    nothing = torch.zeros((), dtype=torch.float64)
    products = [[nothing] * tasks for _ in range(tasks)]
    for each in gradients:
        # in float32 the rounding of two gradients that cancel would pass for a direction they share
        exact = [None if one is None else one.flatten().double() for one in each]
        for i, one in enumerate(exact):
            for j, other in enumerate(exact[: i + 1]):
                if one is not None and other is not None:
                    product = torch.dot(one, other)
                    products[i][j] = products[i][j].to(product.device) + product
    lower = torch.stack([torch.stack([own.cpu() for own in row]) for row in products])
    return lower + lower.tril(-1).T


def weights_by(name: Balance) -> tuple[Weights, Weights | None]:
    """A balancer's weights, and those it takes where its own leave nothing of the gradients; None: nothing is taken.

    `gdod` is GDOD of the gradients brought to one length, or, where tasks have weights, to lengths of their ratio;
    where that leaves nothing, the direction nearest to their sum among those that oppose no task (torchjd's DualProj).
    Of gradients as they are `gdod-lengths` is the same, `gdod-pcgrad` takes PCGrad's, and `gdod-pure`, the paper's,
    nothing. Raises InputError where a package is not installed.
    """
    if name == "sum":
        return lambda gram, _: torch.ones(len(gram), dtype=torch.float64), None
    if name in ("gdod", "gdod-unit"):
        return of_lengths_told(shared_weights), of_lengths_told(_peer("dualproj"))
    if name.startswith("gdod"):
        fallback = {"gdod-lengths": "dualproj", "gdod-pcgrad": "pcgrad"}.get(name)
        return as_they_are(shared_weights), None if fallback is None else as_they_are(_peer(fallback))
    return as_they_are(_peer(name)), None


def as_they_are(weights: OfGram) -> Weights:
    """Of gradients of weighted losses, whose lengths have the weights in them."""
    return lambda gram, _: weights(gram)


def of_lengths_told(weights: OfGram) -> Weights:
    """The weights by which gradients of the preferred lengths would be summed, of gradients as they are.

    GDOD's eigenspaces lie near the longest gradients: of two tasks that agree a little it keeps the longer one's alone.
    """

    def made(gram: Tensor, preference: Tensor) -> Tensor:
        own = gram.diagonal().sqrt()
        factor = preference / preference.mean() / own
        return weights(gram * factor.outer(factor)) * factor * own.mean()

    return made


def _peer(name: str) -> OfGram:
    """Of torchjd, on the scale of a sum: several of them are means.

    Gram matrices are brought to one size first: torchjd takes those of a trace below 1e-4 for zero, and the gradients
    of a model that has nearly learnt are that short.
    """
    try:
        from torchjd import aggregation as peers
        from torchjd.linalg import QuadprogProjector

        made: dict[str, Callable[[], OfGram]] = {
            "pcgrad": peers.PCGradWeighting,
            "cagrad": lambda: peers.CAGradWeighting(c=CAUTION),
            "mgda": lambda: shortest_in_hull,
            "imtl-g": peers.IMTLGWeighting,
            "aligned-mtl": peers.AlignedMTLWeighting,
            "upgrad": lambda: _projected_alone(QuadprogProjector(reg_eps=EXACT)),
            "dualproj": lambda: _nearest_unopposed(QuadprogProjector(reg_eps=EXACT)),
        }
        weighting = made[name]()
    except ImportError as error:  # torchjd's own has no module's name
        extra = "cagrad" if name == "cagrad" else "models"
        missing = f" ({error.name})" if error.name else ""
        raise InputError(
            f"--balance {name} needs a package that is not here{missing}; pip install 'interestream[{extra}]'"
        ) from None
    sums = ("pcgrad", "upgrad", "dualproj")
    return lambda gram: weighting(gram / gram.diagonal().mean()) * (1 if name in sums else len(gram))


# Which directions oppose a gradient does not depend on its length, so that solvers have gradients brought to one: what
# they add to the diagonal would else be more than the whole of a gradient that is much shorter than another.


def _nearest_unopposed(projector: Callable[[Tensor, Any], Tensor]) -> OfGram:
    """DualProj by weights of its own: the direction nearest to the gradients' sum that opposes none of them."""

    def made(gram: Tensor) -> Tensor:
        own = gram.diagonal().sqrt()
        scaled = own / own.mean()
        return projector(scaled, gram / own.outer(own)) / scaled

    return made


def _projected_alone(projector: Callable[[Tensor, Any], Tensor]) -> OfGram:
    """UPGrad (arXiv 2406.16232): each gradient alone is brought to the direction nearest to it that opposes none."""

    def made(gram: Tensor) -> Tensor:
        own = gram.diagonal().sqrt()
        scaled = own / own.mean()
        return projector(scaled.diag(), gram / own.outer(own)).sum(dim=0) / scaled

    return made


def shortest_in_hull(gram: Tensor) -> Tensor:
    """MGDA (Désidéri 2012): the weights, of sum 1, of the shortest vector in the gradients' convex hull.

    Solved as the quadratic program that it is: torchjd's Frank-Wolfe steps end before they are near it where lengths
    differ by more than 100, and then oppose tasks.
    """
    from qpsolvers import solve_qp

    own, none = gram.diagonal().sqrt(), np.zeros(len(gram))
    unit = (gram / own.outer(own)).numpy() + EXACT * np.eye(len(gram))
    # x, the weights of unit gradients, has sum(x / own) = 1, here times the least length
    found = solve_qp(unit, none, A=(own.min() / own).numpy()[None], b=np.ones(1), lb=none, solver="quadprog")
    assert found is not None
    weights = torch.from_numpy(found) / own
    return weights / weights.sum()
