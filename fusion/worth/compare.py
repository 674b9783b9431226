"""Trains every variant with every seed, each run once, and says what the parts are worth.

A folder keeps the scores of every finished run; what was interrupted is continued, and the table depends on the scores
alone. Another log, other texts or other options need another folder.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Connection

from fusion.features.dataset import Dataset, DatasetConfig, Replace, read_dataset
from fusion.features.interest_vectors import InterestVectors, choose_vectors, read_interest_vectors
from fusion.features.log import Array
from fusion.features.match.features import MatchSpec
from fusion.features.match.features import Part as MatchPart
from fusion.features.splits import TEST, TRAIN
from fusion.models.protocol import ModelConfig
from fusion.models.registry import kind_of
from fusion.training.checkpoint import fingerprint_of
from fusion.training.train import TrainConfig, suited_epochs
from fusion.worth.costs import Costs
from fusion.worth.intervals import HeldOut, Resampled
from fusion.worth.report import table_of
from fusion.worth.runs import run, scores_of
from fusion.worth.variants import INTEREST, NOTHING, Control, Part, Variant
from interest.errors import InputError

PLAN, TABLE = "plan.json", "table.json"
OF_MATCH: dict[Part, MatchPart] = {"item text": "text", "centroids": "places", "interest text": "interests"}
MANY = 5  # partitions from which on a user has many

Model = Callable[[Dataset, bool], tuple[ModelConfig, Callable[[Any], None]]]
"""From the samples and whether interests are read: the model's config, and what is done to its fresh weights."""

Begin = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows one run: its title and how many samples it learns from."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What all runs of a folder share."""

    model: str
    data: str  # the options that samples are read by
    training: TrainConfig
    pretrained: str = ""  # id of the encoder that SRP4CTR starts from
    content: str = ""  # the log's, the split's and the texts' fingerprint


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared, and how it is shown."""

    plan: Plan
    data: DatasetConfig
    model: Model
    models: list[Variant]
    seeds: int
    replace: Mapping[Control, Replace]
    begin: Begin


def read_held(connection: Connection, data: DatasetConfig, users: list[str]) -> InterestVectors:
    """The vectors of the interest texts. Raises InputError where there are none, or several and none is named."""
    version, encoder = choose_vectors(
        connection, generation=data.generation, prompt_version=data.prompt_version, encoder=data.encoder
    )
    return read_interest_vectors(connection, users, generation=data.generation, prompt_version=version, encoder=encoder)


def compare(
    connection: Connection, asked: Comparison, folder: Path, costs: Callable[[InterestVectors], Costs | None]
) -> tuple[dict[str, Any], Resampled]:
    """Train what is not trained yet; write and return the table, and the figures behind it.

    Raises InputError where the folder holds something else.
    """
    plain = read_dataset(connection, _config(asked.data, Variant(name=NOTHING, parts=())))
    held = read_held(connection, asked.data, plain.log.users)
    _claim(folder, asked.plan, plain, held)
    scores: dict[str, Array] = {}
    count = len(asked.models) * asked.seeds
    for number, variant in enumerate(asked.models):
        places = [folder / "runs" / f"{variant.folder}-{seed}" for seed in range(asked.seeds)]
        found = [scores_of(place) for place in places]
        if any(own is None for own in found):
            dataset = _read(connection, asked, variant, plain)
            config, prepare = asked.model(dataset, INTEREST in variant.parts)
            for seed, place in enumerate(places):
                if found[seed] is not None:
                    continue
                training = msgspec.structs.replace(asked.plan.training, seed=seed)
                if not training.epochs:
                    most = kind_of(config).epochs
                    training = msgspec.structs.replace(training, epochs=suited_epochs(most, len(dataset.of(TRAIN))))
                title = f"{variant.name}, seed {seed} ({number * asked.seeds + seed + 1} of {count})"
                with asked.begin(title, training.epochs * len(dataset.of(TRAIN))) as advance:
                    found[seed] = run(dataset, config, training, place, prepare=prepare, advance=advance)
        scores[variant.name] = np.stack([own for own in found if own is not None])
    figures = Resampled(held_out(plain, held), scores)
    about = {"model": asked.plan.model, "seeds": asked.seeds, "test_rows": len(plain.of(TEST))}
    table = table_of(asked.models, figures, costs(held), about)
    (folder / TABLE).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return table, figures


def held_out(dataset: Dataset, held: InterestVectors) -> HeldOut:
    """The test part and its slices: cold items, cold users, and users with many partitions at that moment."""
    rows = dataset.of(TEST)
    seen = (held.visible(dataset.samples.impressions.take(rows), MANY) >= 0).sum(axis=1)
    slices = {name: dataset.slices[name][rows] for name in ("cold_items", "cold_users")}
    return HeldOut(
        dataset.labels[rows], dataset.log.user[dataset.rows[rows]], slices | {"many_partitions": seen == MANY}
    )


def _read(connection: Connection, asked: Comparison, variant: Variant, plain: Dataset) -> Dataset:
    if not variant.parts:
        return plain
    replace = None if variant.control is None else asked.replace[variant.control]
    return read_dataset(connection, _config(asked.data, variant), replace=replace)


def _config(data: DatasetConfig, variant: Variant) -> DatasetConfig:
    """What the variant's model reads; the space of the match scalars is fitted anew to just that."""
    interest, match = INTEREST in variant.parts, None
    if data.match is not None and variant.parts:
        parts = tuple(name for part, name in OF_MATCH.items() if part in variant.parts)
        if "text" in parts and "known" in data.match.parts:
            parts = (*parts, "known")
        if "places" in parts and "support" in data.match.parts:
            parts = (*parts, "support")
        match = MatchSpec(parts=parts)
        if "text" in parts:
            match = msgspec.structs.replace(match, encoder=data.match.encoder, template=data.match.template)
    return dataclasses.replace(data, interest=interest, match=match)


def _claim(folder: Path, plan: Plan, plain: Dataset, held: InterestVectors) -> None:
    """Write down what the folder's runs are of, or compare it with what is written."""
    read = (plain.rows, plain.labels, plain.part, *plain.log.content, held.starts, held.last_seq, held.vectors)
    plan = msgspec.structs.replace(plan, content=fingerprint_of([plain.spec], read))
    file = folder / PLAN
    if not file.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"--out {folder} holds something else; give a new folder or an empty one")
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=1))
        return
    try:
        before = msgspec.json.decode(file.read_bytes(), type=Plan)
    except msgspec.DecodeError as error:
        raise InputError(f"{file} cannot be read: {error}; give another folder") from None
    names = ", ".join(name for name in Plan.__struct_fields__ if getattr(before, name) != getattr(plan, name))
    if names:
        raise InputError(
            f"--out {folder} holds runs of another comparison (other: {names}; content is the log, the split and the "
            "texts); give another folder"
        )
