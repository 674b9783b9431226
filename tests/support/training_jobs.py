"""Trainings that tests run in processes of their own, by tests.support.processes."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from fusion.bank.vectors import fill
from fusion.encoders.split_llm import open_lower_layers, recipe_of
from fusion.features.dataset import read_dataset, read_labelled
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.training import experiment, pretrained
from fusion.training.bahe import begin_with_llm
from fusion.training.distributed import processes
from fusion.training.pretrain import PretrainConfig
from streams.store.engine import open_store
from tests.support import bahe_world, small_models
from tests.support.bank_world import TEXTS, CountingEncoder
from tests.support.small_models import DATA, QUICK, SRP4CTR
from tests.support.task_world import tasks_dataset


def _alike() -> None:
    """Shares of a batch add up to the whole batch but for rounding."""
    torch.nn.Dropout.forward = lambda _, x: x  # each process draws its own


def pretrain_fgbert(url: str, folder: Path, size: int) -> list[list[float]]:
    """FG-BERT, one epoch; the losses."""
    _alike()
    with open_store(url).connect() as connection:
        read = read_labelled(connection, DATA)
    own, config = FgBertConfig(positions=12, width=16, dropout=0.0), PretrainConfig(epochs=1, batch_size=size)
    with processes(torch.device("cpu")) as dist:
        epochs = pretrained.run(read, own, config, split="global", folder=folder, dist=dist)
    return [[epoch.loss, epoch.valid_loss, epoch.hit_rate] for epoch in epochs]


def train_srp4ctr(url: str, folder: Path) -> list[list[float]]:
    """SRP4CTR with interests; each epoch's loss and AUC, and the test's."""
    _alike()
    with open_store(url).connect() as connection:
        data = read_dataset(connection, dataclasses.replace(DATA, interest=True))
    own, config = msgspec.structs.replace(SRP4CTR, interest=True), msgspec.structs.replace(QUICK, unknown=0.0)
    epochs: list[Any] = []
    with processes(torch.device("cpu")) as dist:
        measured = experiment.run(data, own, config, split="global", folder=folder, report=epochs.append, dist=dist)
    told = [[epoch.loss, epoch.auc] for epoch in epochs]
    return [*told, [measured["test"]["log_loss"], measured["test"]["auc"]]] if dist.first else told


def train_tasks(url: str, folder: Path) -> list[list[float]]:
    """SRP4CTR on three tasks, their gradients balanced; each epoch's loss, AUC and counts, and the test's errors."""
    _alike()
    with open_store(url).connect() as connection:
        data = tasks_dataset(connection)
    own, config = SRP4CTR, msgspec.structs.replace(QUICK, unknown=0.0, balance="gdod")
    epochs: list[Any] = []
    with processes(torch.device("cpu")) as dist:
        measured = experiment.run(data, own, config, split="global", folder=folder, report=epochs.append, dist=dist)
    told = [[epoch.loss, epoch.auc, epoch.steps, epoch.conflicts] for epoch in epochs]
    return [*told, [measured["test"]["love/auc"], measured["test"]["stars/rmse"]]]


def train_bahe(url: str, folder: Path, llm: Path, banks: Path) -> tuple[list[list[float]], float]:
    """BAHE with shared windows; each epoch's loss and AUC, and the test's AUC."""
    recipe = recipe_of(llm, 2)
    data = bahe_world.ready(open_store(url), recipe, llm, banks)
    own, config = bahe_world.config_of(llm, recipe, pack=4), msgspec.structs.replace(bahe_world.QUICK, unknown=0.0)
    epochs: list[Any] = []
    with processes(torch.device("cpu")) as dist:
        measured = experiment.run(
            data, own, config, split="global", folder=folder, report=epochs.append, dist=dist,
            prepare=lambda model: begin_with_llm(model, own),
        )  # fmt: skip
    return [[epoch.loss, epoch.auc] for epoch in epochs], measured["test"]["auc"] if dist.first else 0.0


def killed_after(samples: int) -> Callable[[int], None]:
    """What is told of each batch's size, and kills the process when so many samples are done."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done > samples:
            os.kill(os.getpid(), signal.SIGKILL)

    return advance


def filling_killed_at(call: int, url: str, llm: Path) -> None:
    """A bank is filled in chunks of five texts; the process ends at this call of the lower layers."""
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)

    fill(open_store(url), CountingEncoder(open_lower_layers(llm, recipe_of(llm, 2)), count), TEXTS, chunk=5)


def pretraining_killed_after(samples: int, url: str, folder: Path) -> None:
    with open_store(url).connect() as connection:
        read = read_labelled(connection, DATA)
    own, config = small_models.FGBERT, small_models.PRETRAINING
    pretrained.run(read, own, config, split="global", folder=folder, advance=killed_after(samples))


def training_killed_after(samples: int, url: str, folder: Path) -> None:
    with open_store(url).connect() as connection:
        data = read_dataset(connection, DATA)
    own, config = small_models.DIN, QUICK
    experiment.run(data, own, config, split="global", folder=folder, advance=killed_after(samples))
