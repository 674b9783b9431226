"""From the store to samples: reads everything one training run needs and joins it, once, for any model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sqlalchemy import Connection

from fusion.features.counts import ItemHistory, ItemStatistics, event_columns
from fusion.features.interest_vectors import InterestVectors, choose_vectors, read_interest_vectors
from fusion.features.keys.spec import KeyChoice
from fusion.features.labels import UNLABELLED, LabelRule, check_classes
from fusion.features.log import Array, Log, read_log
from fusion.features.match.features import MatchSpec
from fusion.features.match.item_vectors import read_item_vectors
from fusion.features.modalities import Modality, read_modalities
from fusion.features.offers import with_offers
from fusion.features.samples import Samples, fit_samples
from fusion.features.scenes import scene_slices
from fusion.features.slices import tail_items
from fusion.features.spec import FeatureSpec, fit_spec
from fusion.features.splits import TEST, TRAIN, VALID, Split, eligible, split
from fusion.features.tasks import Tasks, main_task, on_log, targets_of
from interest.errors import InputError
from interest.store.sql import read_items, read_users
from interest.types import Item, User

FEW = 5  # an item that training has met less often is cold
LEAST_SAMPLES = 20  # under this a split has parts without rows
EMPTY = "the store holds no behaviours; run `interestream replay LOG` first"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    tasks: Tasks
    split: Split = "global"
    history: int = 50
    min_history: int = 5
    interest: bool = False
    partitions: int = 16  # newest first; at 50 behaviours each, a user's last 800
    generation: int = 0
    prompt_version: str | None = None
    encoder: str | None = None
    match: MatchSpec | None = None  # the match scalars of user and candidate; none: none
    modalities: tuple[Modality, ...] = ()  # of items, to be read; not fitted yet
    keys: KeyChoice | None = None  # the key-vector state of users; none: it is not read
    value_edges: tuple[float, ...] | None = None  # those that a pre-trained encoder reads; None: fitted to the log


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """n samples, in the log's order."""

    log: Log
    samples: Samples
    rows: Array  # (n,) int64, into the log
    labels: Array  # (n,) int8, 0 or 1 by the main task's rule; of several tasks also -1, where it says nothing
    part: Array  # (n,) int8: TRAIN, VALID, TEST
    statistics: ItemStatistics  # of every item at the end of the log, by index in spec.items
    slices: dict[str, Array]  # (n,) bool each, see `slices_of`
    targets: Array | None = None  # (n, T) float32, NaN where a task says nothing; None: there is one task

    @property
    def learnt(self) -> Array:
        """What a model is trained on: labels (n,), or targets (n, T) of several tasks."""
        return self.labels if self.targets is None else self.targets

    @property
    def spec(self) -> FeatureSpec:
        return self.samples.spec

    def of(self, part: int) -> Array:
        return np.flatnonzero(self.part == part)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The log with its labels and parts, before any sample is made."""

    config: DatasetConfig
    log: Log
    catalogue: dict[str, Item]
    profiles: dict[str, User]
    labels: Array  # (N,) int8: 1, 0 or UNLABELLED, by the main task's rule
    targets: Array | None  # (N, T), of several tasks
    part: Array  # (N,) int8: TRAIN, VALID, TEST
    rows: Array  # (n,) int64: the events that are samples

    @cached_property
    def spec(self) -> FeatureSpec:
        """Fitted to the training part, for an encoder that reads behaviours and no counts."""
        config = self.config
        return fit_spec(
            self.log, self.labels, self.part == TRAIN, self.catalogue, self.profiles,
            tasks=config.tasks, history=config.history, min_history=config.min_history, value_edges=config.value_edges,
        )  # fmt: skip


def read_labelled(
    connection: Connection,
    config: DatasetConfig,
    advance: Callable[[int], None] | None = None,
    *,
    least: int | None = None,
) -> Labelled:
    """Raises InputError where there is too little to learn from.

    least: where labels are not learnt, as many behaviours as some user must have in the training part.
    """
    behaved = read_log(connection, advance=advance)
    log = with_offers(connection, behaved)
    part = split(log, config.split)
    config = dataclasses.replace(config, tasks=on_log(config.tasks, log))
    rule = config.tasks[main_task(config.tasks)].rule
    labels = rule.labels(log)
    if least is not None:  # behaviours are read as such: offers only say where the parts end, and what is a label
        _check_behaviors(log, labels, part, rule, least)
        log, part, labels = behaved, part[log.behaved], labels[log.behaved]
    catalogue, profiles = read_items(connection, log.items), read_users(connection, log.users)
    targets = targets_of(config.tasks, log) if len(config.tasks) > 1 else None
    labelled = labels != UNLABELLED if targets is None else ~np.isnan(targets).all(axis=1)
    rows = np.flatnonzero(eligible(log, config.min_history) & labelled)
    if least is None:
        _check(log, labels, targets, part, rows, config)
    return Labelled(
        config=config, log=log, catalogue=catalogue, profiles=profiles,
        labels=labels, targets=targets, part=part, rows=rows,
    )  # fmt: skip


Replace = Callable[[InterestVectors, Log, Array], InterestVectors]
"""Other vectors for the same partitions, from them, the log and the part (N,) of each of its events."""


def read_dataset(
    connection: Connection,
    config: DatasetConfig,
    advance: Callable[[int], None] | None = None,
    *,
    replace: Replace | None = None,
) -> Dataset:
    """Raises InputError where there is too little to learn from, or no interest vectors though they were asked.

    replace: a control (`fusion.worth`), whose vectors stand where those of the interest texts would.
    """
    chosen = None
    if config.interest:
        chosen = choose_vectors(
            connection, generation=config.generation, prompt_version=config.prompt_version, encoder=config.encoder
        )
    read = read_labelled(connection, config, advance)
    config, log, labels, part, rows = read.config, read.log, read.labels, read.part, read.rows
    interest_vectors: InterestVectors | None = None
    if chosen:
        version, encoder = chosen
        interest_vectors = read_interest_vectors(
            connection, log.users, generation=config.generation, prompt_version=version, encoder=encoder
        )
        if replace is not None:
            interest_vectors = replace(interest_vectors, log, part)
    text = None if config.match is None else read_item_vectors(connection, config.match, log.items, read.catalogue)
    looks = read_modalities(connection, config.modalities, log.items, read.catalogue)
    samples = fit_samples(
        log, rows, part == TRAIN, read.catalogue, read.profiles,
        tasks=config.tasks, history=config.history, min_history=config.min_history, value_edges=config.value_edges,
        interest_vectors=interest_vectors, partitions=config.partitions, match=config.match, item_text=text,
        modalities=config.modalities, modality_vectors=looks,
        keys=config.keys,
    )  # fmt: skip
    training = rows[part[rows] == TRAIN]
    return Dataset(
        log=log,
        samples=samples,
        rows=rows,
        labels=labels[rows],
        part=part[rows],
        statistics=statistics_of(samples.spec, log, labels),
        slices=slices_of(log, rows, items=np.flatnonzero(part == TRAIN), users=training),
        targets=None if read.targets is None else read.targets[rows],
    )


def slices_of(log: Log, rows: Array, *, items: Array, users: Array) -> dict[str, Array]:
    """(n,) bool of the samples `rows`, by what was met in training: `items` and `users` are rows of the log.

    The long tail twice (see `tail_items`); items met fewer than 5 times; users never met; scenes (`scene_slices`).
    """
    times = np.bincount(log.item[items], minlength=len(log.items))
    strict, bulk = tail_items(times)
    met = np.zeros(len(log.users), bool)
    met[log.user[users]] = True
    item = log.item[rows]
    return {
        "tail": strict[item],
        "bulk_tail": bulk[item],
        "cold_items": times[item] < FEW,
        "cold_users": ~met[log.user[rows]],
        **scene_slices(log, rows, items=items, users=users),
    }


def statistics_of(spec: FeatureSpec, log: Log, labels: Array) -> ItemStatistics:
    """Of every item at the end of the log, by index in `spec.items`; none of an item that the log does not have."""
    number = {item: i for i, item in enumerate(log.items)}
    places = np.array([number.get(item, -1) for item in spec.items])
    return ItemHistory(log, event_columns(log, labels, spec.scale)).snapshot().take(places)


def _check_behaviors(log: Log, labels: Array, part: Array, rule: LabelRule, least: int) -> None:
    """The label may be useless only where every label is: a run for hours with a mistyped one is of no use later."""
    if not log.size:
        raise InputError(EMPTY)
    values = np.unique(log.value[~np.isnan(log.value)])
    if len(log.actions) > 1 or len(values) > 1:
        check_classes(labels, rule, log)
    own = log.behaved
    most = int(np.bincount(log.user[own][part[own] == TRAIN], minlength=1).max())
    if most < least:
        raise InputError(
            f"nothing to learn from: no user has {least} behaviours in the training part, of {len(own):,} behaviours "
            f"by {len(log.users):,} users; replay more of the log, or try the other --split"
        )


def _check(log: Log, labels: Array, targets: Array | None, part: Array, rows: Array, config: DatasetConfig) -> None:
    """Every task has something to learn, to select and to test by."""
    if not log.size:
        raise InputError(EMPTY)
    for number, task in enumerate(config.tasks):
        if targets is None:
            own, name = labels, ""
        else:
            held, name = targets[:, number], f"task {task.name}, "
            own = np.where(np.isnan(held), UNLABELLED, held).astype(np.int8) if not task.rule.is_number else held
        if not task.rule.is_number:
            check_classes(own[rows] if len(rows) else own, task.rule, log, task.given)
        _check_parts(log, own[rows], part[rows], config, name)


def _check_parts(log: Log, labels: Array, part: Array, config: DatasetConfig, task: str) -> None:
    """labels: 1, 0 or UNLABELLED, or numbers with NaN."""
    numbers = labels.dtype.kind == "f"
    for which, name in ((TRAIN, "training"), (VALID, "validation"), (TEST, "test")):
        own = labels[part == which]
        own = own[~np.isnan(own)] if numbers else own[own != UNLABELLED]
        if len(own) < LEAST_SAMPLES or own.min() == own.max():
            alike = "of one value" if numbers else "of one class"
            kind = f"{len(own):,} samples" if len(own) < LEAST_SAMPLES else f"{len(own):,} samples, all {alike}"
            raise InputError(
                f"too few behaviours to train on: {task}{name} has {kind}, of {log.size:,} behaviours by "
                f"{len(log.users):,} users "
                f"(a sample needs {config.min_history} earlier events of its user); replay more of the log, "
                f"or try the other --split{' or a smaller --min-history' if config.min_history else ''}"
            )
