"""Training in several processes, as torchrun starts them: each takes a share of every batch, gradients are summed.

The sum over processes is the gradient of the whole batch, so that two processes do what one does, apart from the order
in which numbers are added and from what dropout draws.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from fusion.models.protocol import Network
from interest.errors import InputError

DEVICE = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True, slots=True)
class Processes:
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """The one that writes and prints."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> None:
        """In device, over all processes."""
        if self.count > 1:
            dist.all_reduce(tensor)

    def sum_gradients(self, model: Network) -> None:
        if self.count == 1:
            return
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        for weight, gradient in zip(trained, self.summed(trained, [one.grad for one in trained]), strict=True):
            weight.grad = gradient

    def summed(self, trained: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The gradients of the parameters `trained`, summed over all processes; None where no process has one."""
        if self.count == 1:
            return gradients
        # what one share did not use, another may have: every process sends all, and which of it is there
        flags = [gradient is not None for gradient in gradients]
        present = torch.tensor(flags, dtype=torch.float32, device=trained[0].device)
        pairs = zip(trained, gradients, strict=True)
        parts = [(torch.zeros_like(weight) if own is None else own).flatten() for weight, own in pairs]
        flat = torch.cat([present, *parts])
        dist.all_reduce(flat)
        whole = torch.split(flat[len(trained) :], [weight.numel() for weight in trained])
        return [
            own.view_as(weight).clone() if uses else None
            for weight, own, uses in zip(trained, whole, flat[: len(trained)].tolist(), strict=True)
        ]

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            dist.barrier()


ALONE = Processes()


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """The group that torchrun's environment describes (gloo on processors, NCCL on GPUs), or this process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def choose_device(name: str) -> torch.device:
    """`auto`: this process's GPU where there is one, else the processor. Raises InputError where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not DEVICE.fullmatch(name):
        raise InputError(f"--device {name}: no such device; give cpu, cuda (or cuda:1 for the second GPU) or auto")
    if name.startswith("cpu"):
        return torch.device("cpu")
    number = int(name.partition(":")[2] or os.environ.get("LOCAL_RANK", "0"))
    if not torch.cuda.is_available():
        raise InputError(f"--device {name}: PyTorch {torch.__version__} finds no GPU here; give cpu or auto")
    if number >= (count := torch.cuda.device_count()):
        raise InputError(
            f"process {number + 1} has no GPU of its own, there are {count}; start {count}, or give --device cpu"
            if name == "cuda"
            else f"--device {name}: there are {count} GPUs, counted from 0; give another number, cpu or auto"
        )
    return torch.device("cuda", number)
