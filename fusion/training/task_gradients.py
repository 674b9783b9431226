"""From a batch's loss to the gradients of a step, for one task or several, and what an epoch says of each task."""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from torch import Tensor

from fusion.features.log import Array
from fusion.features.tasks import Tasks, main_task
from fusion.models.protocol import Loss, Network
from fusion.training import metrics
from fusion.training.balance import Balance, Balancer
from fusion.training.distributed import Processes
from fusion.training.finite import finite_loss


class Gradients:
    """One run's. `set` is called in every step, `measure` once at the end of an epoch."""

    def __init__(
        self, model: Network, tasks: Tasks, balance: Balance | msgspec.UnsetType, seed: int, dist: Processes
    ) -> None:
        self._model, self._tasks, self._dist = model, tasks, dist
        several = len(tasks) > 1 and not isinstance(balance, msgspec.UnsetType) and balance != "sum"
        preference = [task.weight for task in tasks]
        self._balancer = Balancer(balance, seed, preference) if several else None  # type: ignore[arg-type]

    def set(self, summed: Loss, rows: int, epoch: int, number: int) -> Tensor:
        """Set every parameter's gradient by this process's share of a batch of so many rows, in all processes.

        Returns the share's loss without what is learnt beside the tasks. What that is belongs to the main task where
        tasks are balanced. epoch, number: of the step, the latter from 1. Raises InputError for a loss that is not
        finite.
        """
        extra = summed.extra / rows
        if len(self._tasks) == 1:
            loss = summed.ctr / rows
            finite_loss(loss + extra, epoch, number).backward()  # type: ignore[no-untyped-call]
            self._dist.sum_gradients(self._model)
            return loss
        weights = torch.tensor([task.weight for task in self._tasks], device=summed.ctr.device)
        losses = summed.ctr * weights / rows
        loss = losses.sum()
        whole = finite_loss(loss + extra, epoch, number)
        if self._balancer is None:
            whole.backward()  # type: ignore[no-untyped-call]
            self._dist.sum_gradients(self._model)
        else:
            main = main_task(self._tasks)
            own = [each + extra if task == main else each for task, each in enumerate(losses.unbind())]
            self._balancer.gradients(self._model, own, epoch * 1_000_000 + number, self._dist)
        return loss

    def measure(self, labels: Array, scores: Array) -> tuple[float, tuple[Any, ...]]:
        """The validation AUC by which an epoch is chosen, and the fields of `Epoch` that follow it.

        Of several tasks that is the mean of those that are a yes or no.
        """
        if len(self._tasks) == 1:
            return metrics.auc(labels, scores), ()
        told = metrics.by_task(self._tasks, labels, scores)
        counted: tuple[Any, ...] = ()
        if self._balancer is not None:
            counted = (self._balancer.steps, self._balancer.conflicts, self._balancer.zeros)
            self._balancer.reset()
        return metrics.mean_auc(self._tasks, told), (told, *counted)
