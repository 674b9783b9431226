"""Where an interrupted training or pre-training run goes on: one safetensors file, replaced after every epoch."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fusion.features.log import Array
from fusion.models.protocol import Network
from interest.errors import ArtifactError

NAME = "checkpoint.safetensors"
CPU = torch.device("cpu")


class Epoch(msgspec.Struct, frozen=True):
    """What one epoch came to."""

    epoch: int
    loss: float  # mean training loss
    auc: float  # validation, of the averaged weights; of several tasks the mean of those that are a yes or no
    best: bool
    tasks: dict[str, float] | msgspec.UnsetType = msgspec.UNSET  # of several: each one's AUC, or its RMSE
    # of a run that balances their gradients: steps, those in which two tasks' gradients pointed apart, and those in
    # which the balancer left nothing of them (before its fallback)
    steps: int | msgspec.UnsetType = msgspec.UNSET
    conflicts: int | msgspec.UnsetType = msgspec.UNSET
    zeros: int | msgspec.UnsetType = msgspec.UNSET


E = TypeVar("E", bound=msgspec.Struct)


@dataclass(slots=True)
class Checkpoint(Generic[E]):
    """A run between two epochs, each of which came to an E."""

    model: Network
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    best: dict[str, Tensor]
    epochs: list[E] = field(default_factory=list)


def fingerprint_of(settings: Sequence[msgspec.Struct], data: Iterable[Array]) -> str:
    """What a checkpoint must agree on to be continued."""
    digest = hashlib.sha256(msgspec.json.encode(settings))
    for array in data:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def save_checkpoint(folder: Path, state: Checkpoint[E], fingerprint: str) -> None:
    tensors = {f"model/{name}": value for name, value in state.model.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in state.average.items()}
    tensors |= {f"best/{name}": value for name, value in state.best.items()}
    for number, own in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": torch.as_tensor(value) for name, value in own.items()}
    note = {
        "model": type(state.model).__name__,
        "fingerprint": fingerprint,
        "epochs": msgspec.json.encode(state.epochs).decode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (NAME + ".partial")
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial, metadata=note)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(folder / NAME)


def load_checkpoint(folder: Path, state: Checkpoint[E], fingerprint: str, kind: type[E]) -> None:
    """Put `state` where the folder's checkpoint left it; leave it alone where there is none."""
    path = folder / NAME
    if not path.exists():
        return
    try:
        with safe_open(path, framework="pt") as file:
            note = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); remove it to train from the start") from None
    if note.get("fingerprint") != fingerprint:
        raise ArtifactError(
            f"{path} belongs to a run with other data or settings; remove it to start anew, or give another --out"
        )
    try:
        epochs = msgspec.json.decode(note.get("epochs", ""), type=list[kind])  # type: ignore[valid-type]
        state.model.load_state_dict(_part(tensors, "model/"))
    except (msgspec.MsgspecError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{path} is of another version ({reason}); remove it to train from the start") from None
    state.epochs = epochs
    device = next(state.model.parameters()).device
    state.average, state.best = (_part(tensors, prefix, device) for prefix in ("average/", "best/"))
    saved: dict[int, dict[str, Any]] = {}
    for name, value in _part(tensors, "optimizer/").items():
        number, key = name.split("/", 1)
        saved.setdefault(int(number), {})[key] = value
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": saved})


def run_in(folder: Path) -> str | None:
    """The class of the model whose run was interrupted in the folder; None where there is none, or it does not say."""
    try:
        with safe_open(folder / NAME, framework="pt") as file:
            return (file.metadata() or {}).get("model")
    except (SafetensorError, OSError):
        return None


def remove_checkpoint(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (folder / NAME).unlink()


def _part(tensors: dict[str, Tensor], prefix: str, device: torch.device = CPU) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value.to(device) for name, value in tensors.items() if name.startswith(prefix)}
