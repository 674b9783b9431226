"""What BAHE needs around the common training run: vectors for the samples, and the weights it begins with."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Engine
from torch import Tensor

from fusion.bank.index import with_bank
from fusion.bank.mmap_file import BankFile, open_bank_file
from fusion.bank.vectors import fill, missing
from fusion.encoders.recipe import Recipe
from fusion.encoders.split_llm import open_lower_layers, upper_weights
from fusion.features.dataset import Dataset
from fusion.features.splits import TRAIN, Split
from fusion.features.tasks import Tasks, places_of
from fusion.models.bahe.model import Bahe, BaheConfig
from fusion.training.artifact import Artifact
from interest.errors import ArtifactError

_TOWER = re.compile(r"(?P<head>heads\.\d+\.tower\.)(?:each\.(?P<task>\d+)\.)?(?P<own>.*)")
Show = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]  # title and total of a long job: its advance


def with_bank_vectors(
    dataset: Dataset, engine: Engine, recipe: Recipe, llm: Path, folder: Path, show: Show, device: str | None = None
) -> Dataset:
    """The dataset with vectors for its samples' texts: the bank is filled with what it lacks of them, and mapped.

    device: where the lower layers compute; without one a GPU where there is one.
    """

    def source(texts: list[str]) -> BankFile:
        keys = recipe.keys(texts)
        if missing(engine, recipe.id, dict(zip(keys, texts, strict=True))):
            lower = open_lower_layers(llm, recipe, device=device)
            with show("Filling the bank", len(texts)) as advance:
                fill(engine, lower, texts, advance=advance)
        with engine.connect() as connection, show("Mapping the bank", len(texts)) as advance:
            return open_bank_file(connection, recipe.id, keys, folder, advance)

    return dataclasses.replace(dataset, samples=with_bank(dataset.samples, recipe, source))


def newest(dataset: Dataset, split: Split = "global") -> float:
    """Event time after which a refresh finds what a run on the dataset has not learnt from.

    Where parts follow each other in time that is its newest training sample's: the next run trains on what this one
    was selected and tested by, which is lost for good otherwise (as is what has the very same time). Where every user
    has parts, others' training samples are newer than that, so it is the newest behaviour's.
    """
    known = dataset.log.at if split == "user" else dataset.log.at[dataset.rows[dataset.of(TRAIN)]]
    return float(known.max())


def begin_with_llm(model: Bahe, config: BaheConfig) -> None:
    """The LLM's own layers."""
    model.take_llm(upper_weights(Path(config.folder), config.recipe.cut))


def begin_with(model: Bahe, config: BaheConfig, last: Artifact) -> None:
    """The last artifact's weights; with LoRA on the LLM's layers. A task that it did not have gets a fresh tower."""
    if config.tune == "lora":
        begin_with_llm(model, config)
    model.load_state_dict(model.state_dict() | of_tasks(last.model.state_dict(), last.spec.tasks, model.tasks))


def of_tasks(weights: dict[str, Tensor], known: Tasks, tasks: Tasks) -> dict[str, Tensor]:
    """Weights of a model of the known tasks by the names that a model of these tasks has for them."""
    mine = [*enumerate(places_of(tasks, known))]
    places = {place: number for number, place in reversed(mine) if place is not None}
    out: dict[str, Tensor] = {}
    for name, value in weights.items():
        found = _TOWER.fullmatch(name)
        if found is None:
            out[name] = value
        elif (number := places.get(int(found["task"] or 0))) is not None:
            out[f"{found['head']}{f'each.{number}.' * (len(tasks) > 1)}{found['own']}"] = value
    return out


def continued(last: Artifact, dataset: Dataset) -> BaheConfig:
    """The config of a run that goes on from an artifact."""
    config: Any = last.config.model
    changed: BaheConfig = msgspec.structs.replace(config, until=newest(dataset), continued_from=last.id)
    return changed


def check_continuable(last: Artifact) -> BaheConfig:
    """Raises ArtifactError for a model of another kind."""
    config = last.config.model
    if not isinstance(config, BaheConfig):
        raise ArtifactError(
            f"artifact {last.id} is a {last.config.kind} model; --continue-from needs one of `train bahe`"
        )
    return config
