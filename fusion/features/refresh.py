"""The daily refresh: what has happened since an artifact was trained, as its own FeatureSpec sees it.

Only behaviours newer than what it has learnt from are samples, those that it was selected and tested by included;
everything before them is history and counts, as it is in scoring. Behaviours that came late (older than the newest it
has learnt from) are history too, and no samples.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from sqlalchemy import Connection

from fusion.features.dataset import LEAST_SAMPLES, Dataset, slices_of, statistics_of
from fusion.features.impressions import impressions_of
from fusion.features.interest_vectors import read_interest_vectors
from fusion.features.labels import UNLABELLED
from fusion.features.log import Array, Log, read_log
from fusion.features.match.features import Match
from fusion.features.match.item_vectors import read_item_vectors
from fusion.features.match.space import Space
from fusion.features.modalities import read_modalities
from fusion.features.offers import with_offers
from fusion.features.samples import make_samples
from fusion.features.scenes import scene_names
from fusion.features.spec import FeatureSpec
from fusion.features.splits import TEST, TRAIN, VALID, eligible
from fusion.features.tasks import NAME, Task, Tasks, going_on, targets_of
from interest.errors import InputError
from interest.store.sql import read_items, read_users

OLD = -1


def read_new(
    connection: Connection,
    spec: FeatureSpec,
    until: float,
    advance: Callable[[int], None] | None = None,
    *,
    space: Space | None = None,
    tasks: Tasks = (),
) -> Dataset:
    """The samples after event time `until`: the first 80 % of the new events train, 10 % select, the last 10 % test.

    The spec keeps its vocabularies and scales, which the weights know; new items join those that have only statistics.
    space: the artifact's, where the spec has match scalars; it was fitted before any of these events, and stays. tasks:
    what is learnt from now on; without any, what the spec says. Raises InputError where there is too little new to
    learn from, and where the model cannot go on with these tasks.
    """
    log = with_offers(connection, read_log(connection, advance=advance))
    catalogue, profiles = read_items(connection, log.items), read_users(connection, log.users)
    part = new_parts(log, until)
    if tasks:
        spec = _with_tasks(spec, going_on(tasks, spec.tasks, log, part == TRAIN))
    labels = spec.label.labels(log)
    targets = targets_of(spec.tasks, log) if len(spec.tasks) > 1 else None
    labelled = labels != UNLABELLED if targets is None else ~np.isnan(targets).all(axis=1)
    rows = np.flatnonzero(eligible(log, spec.min_history) & labelled & (part != OLD))
    wanted = np.where(labels == UNLABELLED, np.nan, labels)[:, None] if targets is None else targets  # (N, T)
    for task, column in zip(spec.tasks, wanted[rows].T, strict=True):
        _check(column, part[rows], until, task)
    known = set(spec.items)
    spec = msgspec.structs.replace(spec, items=(*spec.items, *(item for item in log.items if item not in known)))
    interest_vectors = None
    if spec.partitions:
        interest_vectors = read_interest_vectors(
            connection, log.users,
            generation=spec.generation, prompt_version=spec.prompt_version, encoder=spec.encoder,
        )  # fmt: skip
    match = item_text = None
    if spec.match is not None and space is not None:
        match, item_text = Match(spec.match, space), read_item_vectors(connection, spec.match, log.items, catalogue)
    impressions, past = impressions_of(log, rows)
    samples = make_samples(
        spec,
        log,
        impressions,
        past,
        items=log.items,
        catalogue=catalogue,
        profiles=profiles,
        interest_vectors=interest_vectors,
        match=match,
        item_text=item_text,
        scenes=scene_names(log, rows),
        modality_vectors=read_modalities(connection, spec.item_modalities, log.items, catalogue) or None,
    )
    before = np.flatnonzero(part == OLD)
    return Dataset(
        log=log,
        samples=samples,
        rows=rows,
        labels=labels[rows],
        part=part[rows],
        statistics=statistics_of(spec, log, labels),
        slices=slices_of(log, rows, items=before, users=before),
        targets=None if targets is None else targets[rows],
    )


def new_parts(log: Log, until: float) -> Array:
    """(N,) int8: OLD, or TRAIN, VALID and TEST of the events after `until` by their time."""
    part = np.full(log.size, OLD, np.int8)
    new = np.flatnonzero(log.at > until)
    order = new[np.argsort(log.at[new], kind="stable")]
    bounds = [int(0.8 * len(new)), int(0.9 * len(new))]
    part[order] = np.searchsorted(bounds, np.arange(len(new)), side="right").astype(np.int8)
    return part


def _with_tasks(spec: FeatureSpec, tasks: Tasks) -> FeatureSpec:
    """Raises InputError for a task that asks for what the model is told."""
    asking = next((task for task in tasks if task.rule.field == "scene"), None)
    if asking is not None and spec.scene_offered is True:
        raise InputError(
            f"{asking.given} {asking.rule}: the model to go on from is told the scene of every offer, and this task "
            "would be told its answer; train without --continue-from"
        )
    return msgspec.structs.replace(spec, tasks=tasks)


def _check(wanted: Array, part: Array, until: float, task: Task) -> None:
    """wanted: a task's labels or numbers, NaN where it has none."""
    for which, name in ((TRAIN, "training"), (VALID, "selection"), (TEST, "test")):
        own = wanted[part == which]
        own = own[~np.isnan(own)]
        if len(own) < LEAST_SAMPLES or own.min() == own.max():
            of_task = "" if task.name == NAME else f"task {task.name}: "
            kinds = "different numbers" if task.rule.is_number else "both classes"
            raise InputError(
                f"{of_task}too little is new since the artifact was trained (event time {until:.0f}): {len(own):,} "
                f"samples for {name}, and {LEAST_SAMPLES} of {kinds} are needed; wait for more behaviours"
            )
