"""The FeatureSpec: every decision that turns ids, categories, values and times into numbers. Saved with the weights.

Training and scoring read the same record and call the same `make_samples` (samples.py), so they cannot drift apart.
In every vocabulary row 0 is padding and row 1 is "unknown"; what is listed starts at row 2.
Time is used by day only: gaps in seconds do not exist in a live system's cache, and many logs only estimate them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fusion.features.counts import NAMES, Scale
from fusion.features.interest_vectors import InterestVectors
from fusion.features.keys.spec import KeyChoice, KeySpec, attribute_rows, fit_keys
from fusion.features.labels import POSITIVE, UNLABELLED, LabelRule
from fusion.features.log import Array, Log
from fusion.features.match.features import MatchSpec
from fusion.features.modalities import Modality, missing, standardised
from fusion.features.tasks import NAME, Tasks, main_task, with_scales
from interest.errors import ArtifactError
from interest.types import OFFERED, Item, User

PADDING, UNKNOWN, FIRST = 0, 1, 2
GAP_DAYS = (1, 2, 4, 8, 15, 31, 91, 366)  # day gaps 0, 1, 2-3, 4-7, 8-14, 15-30, 31-90, 91-365, more
MANY = 200  # a column with more distinct texts than this names things (zip codes, titles) rather than describes them
FEW_VALUES = 20  # up to this many distinct values each is its own bucket; above, ten buckets of equal size
CATEGORY_SLOTS = 8  # categories of one item that are looked at


class Column(msgspec.Struct, frozen=True):
    """A vocabulary: one column of text attributes, or the categories."""

    name: str
    texts: tuple[str, ...]

    def rows(self) -> dict[str, int]:
        return {text: row for row, text in enumerate(self.texts, FIRST)}

    @property
    def size(self) -> int:
        return len(self.texts) + FIRST


class FeatureSpec(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's text. Made by `fit_spec`, written and read as JSON."""

    tasks: Tasks
    history: int  # L, the short-term cache: the most recent events a model attends to
    min_history: int  # earlier events a row must have to be a sample
    items: tuple[str, ...]  # the trained ones first; the rest only have statistics
    trained_items: int
    categories: Column
    item_columns: tuple[Column, ...]
    user_columns: tuple[Column, ...]
    actions: Column
    value_edges: tuple[float, ...]  # bucket of v = number of edges <= v; none: the log has no values
    scale: Scale
    dense_mean: tuple[float, ...]  # of the counts, over training samples
    dense_std: tuple[float, ...]
    partitions: int = 0  # interests a model looks at, newest first; 0: none
    text_width: int = 0  # summary and shift vector together
    generation: int = 0
    prompt_version: str = ""
    encoder: str = ""
    dense: tuple[str, ...] = NAMES
    match: MatchSpec | None = None  # what is said of users and candidates behind the counts; none: nothing
    scenes: Column = Column("scene", ())  # none: the log tells no scenes apart
    modalities: tuple[Modality, ...] | msgspec.UnsetType = msgspec.UNSET  # of items; unset: none are read
    scene_offered: bool | msgspec.UnsetType = msgspec.UNSET  # models read the scene of the offer; unset: they do not
    keys: KeySpec | None = None  # of the user's key-vector state; none: it is not read
    layout: int = 1

    @property
    def label(self) -> LabelRule:
        """What a positive is in a history: the main task's rule."""
        return self.tasks[main_task(self.tasks)].rule

    @property
    def item_modalities(self) -> tuple[Modality, ...]:
        """The items' modalities that models read."""
        return () if isinstance(self.modalities, msgspec.UnsetType) else self.modalities

    @property
    def offers_scenes(self) -> bool:
        """Whether models read in which scene an item is offered."""
        return self.scene_offered is True

    @property
    def item_rows(self) -> int:
        """Rows of an item embedding."""
        return self.trained_items + FIRST

    def trained(self, number: Array) -> Array:
        """Indexes into `items`, -1 for those that were not trained: what a space of items knows them by."""
        return np.where(number < self.trained_items, number, -1)

    @property
    def value_rows(self) -> int:
        return len(self.value_edges) + 1 + FIRST

    def save(self, path: Path) -> None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> FeatureSpec:
        try:
            spec = msgspec.convert(_current(msgspec.json.decode(path.read_bytes())), type=cls)
        except (OSError, msgspec.MsgspecError) as error:
            raise ArtifactError(f"{path}: not a feature spec ({error}); train again into a new folder") from None
        if spec.dense != dense_names(spec.match) or spec.layout != 1:
            raise ArtifactError(f"{path}: made by another version of interestream; train again into a new folder")
        return spec


@dataclass(frozen=True, slots=True)
class ItemTable:
    """What the spec knows of I items, in the caller's order. Row 0 is padding; item i is row i + 1."""

    row: Array  # (I + 1,) int32: embedding row
    number: Array  # (I + 1,) int64: its index in FeatureSpec.items, -1 for an item out of vocabulary
    categories: Array  # (I + 1, C) int32
    attributes: Array  # (I + 1, A) int32
    keys: Array  # (I + 1, A') int32: the attributes that are keys (`KeySpec.columns`), 0 for none
    vectors: Array | None = None  # (I + 1, W) float32, see `standardised`; None: the spec has no modalities

    @property
    def content(self) -> tuple[Array, ...]:
        """All that models read of the items."""
        held = (self.row, self.categories, self.attributes, *((self.keys,) if self.keys.shape[1] else ()))
        return held if self.vectors is None else (*held, self.vectors)


def item_table(
    spec: FeatureSpec,
    ids: Sequence[str],
    catalogue: Mapping[str, Item],
    known: Mapping[str, int] | None = None,
    vectors: Sequence[Array] | None = None,
) -> ItemTable:
    """known: the spec's items by id, where the caller has it already.

    vectors: what `read_modalities` gave of these items; without it they have none.
    """
    known = {item: number for number, item in enumerate(spec.items)} if known is None else known
    number = np.array([-1, *(known.get(item, -1) for item in ids)], np.int64)
    row = np.where((number >= 0) & (number < spec.trained_items), number + FIRST, UNKNOWN).astype(np.int32)
    row[0] = PADDING
    attributes = np.zeros((len(ids) + 1, len(spec.item_columns)), np.int32)
    for column, vocabulary in enumerate(spec.item_columns):
        rows = vocabulary.rows()
        for i, name in enumerate(ids, 1):
            item = catalogue.get(name)
            text = None if item is None else item.attributes.get(vocabulary.name, "")
            attributes[i, column] = UNKNOWN if text is None else rows.get(text, UNKNOWN)
    keys = np.zeros((len(ids) + 1, 0), np.int32)
    if spec.keys is not None:
        keys = attribute_rows(spec.keys, ids, catalogue, FIRST)
    modalities = spec.item_modalities
    held = missing(modalities, len(ids)) if vectors is None else vectors
    looks = standardised(modalities, held) if modalities else None
    return ItemTable(row, number, category_rows(spec.categories, ids, catalogue), attributes, keys, looks)


def category_rows(categories: Column, ids: Sequence[str], catalogue: Mapping[str, Item]) -> Array:
    """(I + 1, C) int32: the rows of every item's categories, 0 for none. Row 0 is padding; item i is row i + 1."""
    rows = categories.rows()
    table = np.zeros((len(ids) + 1, CATEGORY_SLOTS), np.int32)
    for i, name in enumerate(ids, 1):
        if name in catalogue:
            named = [rows.get(category, UNKNOWN) for category in catalogue[name].categories[:CATEGORY_SLOTS]]
            table[i, : len(named)] = named
    return table


def profile_table(spec: FeatureSpec, ids: Sequence[str], profiles: Mapping[str, User]) -> Array:
    """(U, A) int32: the attribute rows of every user."""
    table = np.full((len(ids), len(spec.user_columns)), UNKNOWN, np.int32)
    for column, vocabulary in enumerate(spec.user_columns):
        rows = vocabulary.rows()
        for i, name in enumerate(ids):
            if name in profiles:
                table[i, column] = rows.get(profiles[name].attributes.get(vocabulary.name, ""), UNKNOWN)
    return table


def fit_spec(
    log: Log,
    labels: Array,
    train: Array,
    catalogue: Mapping[str, Item],
    profiles: Mapping[str, User],
    *,
    tasks: Tasks,
    history: int,
    min_history: int,
    value_edges: tuple[float, ...] | None = None,
    counts: Array | None = None,
    interests: InterestVectors | None = None,
    partitions: int = 0,
    match: MatchSpec | None = None,
    modalities: tuple[Modality, ...] = (),
    keys: KeyChoice | None = None,
) -> FeatureSpec:
    """Vocabularies and scales from the training events (`train`: (N,) bool).

    value_edges: those to keep, such as a pre-trained encoder's; without them they are fitted to the training events.
    counts: of the training samples, (n, F), the match scalars behind them; without them they stay as they are, for an
    encoder that reads none.
    interests: the vectors that a model reads, `partitions` of a user's at a time. keys: which keys it reads of a user.
    """
    times = np.bincount(log.item[train], minlength=len(log.items))
    trained, rest = np.flatnonzero(times > 0), np.flatnonzero(times == 0)
    held = [catalogue[log.items[i]] for i in trained if log.items[i] in catalogue]
    users = [profiles[log.users[u]] for u in np.unique(log.user[train]) if log.users[u] in profiles]
    mean, std = _mean_and_std(counts, dense_names(match))
    categories, scenes = fit_categories(log, train, catalogue), _scenes(log, train)
    actions = sorted(action for action in log.actions if action != OFFERED)  # of histories
    offered = bool(scenes) and not any(task.rule.field == "scene" for task in tasks)  # there it is the answer
    own_keys = None
    if keys is not None:
        own_keys = fit_keys(
            [log.items[i] for i in trained], catalogue, categories.texts, len(actions),
            scenes=bool(scenes), offered=offered, first=FIRST, attributes=keys.attributes,
        )  # fmt: skip
    return FeatureSpec(
        tasks=with_scales(tasks, log, train),
        history=history,
        min_history=min_history,
        items=tuple(log.items[i] for i in np.concatenate([trained, rest])),
        trained_items=len(trained),
        categories=categories,
        item_columns=_columns(item.attributes for item in held),
        user_columns=_columns(user.attributes for user in users),
        actions=Column("action", tuple(actions)),
        value_edges=_edges(_values(log, train)) if value_edges is None else value_edges,
        scenes=Column("scene", scenes),
        scene_offered=True if offered else msgspec.UNSET,
        scale=fit_scale(log, labels, train),
        dense_mean=mean,
        dense_std=std,
        dense=dense_names(match),
        match=match,
        modalities=modalities or msgspec.UNSET,
        keys=own_keys,
        partitions=0 if interests is None else partitions,
        text_width=0 if interests is None else interests.width,
        generation=0 if interests is None else interests.generation,
        prompt_version="" if interests is None else interests.prompt_version,
        encoder="" if interests is None else interests.encoder,
    )


def fit_scale(log: Log, labels: Array, train: Array) -> Scale:
    """What the counts are measured against, from the training events."""
    labelled = train & (labels != UNLABELLED)
    values = _values(log, train)
    std = float(values.std()) if len(values) else 0.0
    return Scale(
        # one imagined event of each kind keeps the rate inside (0, 1)
        prior=float(((labels[labelled] == POSITIVE).sum() + 1) / (labelled.sum() + 2)),
        value_mean=float(values.mean()) if len(values) else 0.0,
        value_std=std if std > 0 else 1.0,
    )


def fit_categories(log: Log, train: Array, catalogue: Mapping[str, Item]) -> Column:
    """The categories of the items that the training events are on."""
    items = [catalogue[log.items[i]] for i in np.unique(log.item[train]) if log.items[i] in catalogue]
    return Column("categories", tuple(sorted({category for item in items for category in item.categories})))


def _values(log: Log, train: Array) -> Array:
    values = log.value[train]
    return values[~np.isnan(values)].astype(np.float64)


def dense_names(match: MatchSpec | None) -> tuple[str, ...]:
    """The dense features of a model, in order."""
    return NAMES if match is None else (*NAMES, *match.names)


def _mean_and_std(counts: Array | None, names: tuple[str, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """By which the dense features (n, F) are standardised.

    Those of match scalars have four digits: the last bits of a matrix product are not the same on every machine, and
    an interrupted run goes on only where the spec is the same.
    """
    if counts is None:
        return (0.0,) * len(names), (1.0,) * len(names)
    mean, std = counts.mean(axis=0, dtype=np.float64).tolist(), counts.std(axis=0, dtype=np.float64)
    std = np.where(std > 1e-6, std, 1.0).tolist()  # a constant column stays 0
    return _rounded(mean), _rounded(std)


def _rounded(numbers: list[float]) -> tuple[float, ...]:
    exact = len(NAMES)
    return (*numbers[:exact], *(float(f"{number:.4g}") for number in numbers[exact:]))


def _current(stored: Any) -> Any:
    """A stored spec in today's form.

    Until 2026-11 its one task was the field `label`; until 2026-12 `offered` was an action of histories, and no rule
    said that there were offers, by which training read them.
    """
    if isinstance(stored, dict) and "label" in stored:
        stored["tasks"] = [{"name": NAME, "rule": stored.pop("label")}]
    with contextlib.suppress(AttributeError, KeyError, TypeError):  # then it is not a spec, which is told elsewhere
        if OFFERED in stored["actions"]["texts"]:
            for task in stored["tasks"]:
                task["rule"]["offers"] = task["rule"]["field"] == "action"
    return stored


def _columns(records: Iterable[Mapping[str, str]]) -> tuple[Column, ...]:
    """Attribute columns worth an embedding: two to MANY distinct texts."""
    texts: dict[str, set[str]] = {}
    for record in records:
        for name, text in record.items():
            if text:
                texts.setdefault(name, set()).add(text)
    return tuple(Column(name, tuple(sorted(known))) for name, known in sorted(texts.items()) if 2 <= len(known) <= MANY)


def _scenes(log: Log, train: Array) -> tuple[str, ...]:
    if not log.scenes:
        return ()
    used = np.unique(log.scene[train])
    texts = tuple(sorted(log.scenes[number] for number in used if number >= 0))
    return texts if len(used) > 1 else ()


def _edges(values: Array) -> tuple[float, ...]:
    distinct = np.unique(values)
    if len(distinct) <= FEW_VALUES:
        return tuple(distinct[1:].tolist())
    return tuple(np.unique(np.quantile(values, np.linspace(0.1, 0.9, 9))).tolist())
