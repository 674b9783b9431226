"""The logs of `multi_task.py` in a store, and their samples: of all tasks, of one alone, with one that is planted."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.rig.movielens import read_movielens
from fusion.features.dataset import Dataset, DatasetConfig, read_dataset
from fusion.features.tasks import parse_tasks
from interest.store.sql import insert_new, item_row
from interest.store.tables import behaviors, items
from interest.types import Item
from streams.settings.load import sample_log
from streams.store.engine import open_store

TURNED = 0.75  # of the samples, at least: with half of them a task is another one, not a contrary one
FIRST = 150  # users of ML-100K in the quick form


class Data:
    """One log in a store, read when it is first needed."""

    def __init__(self, chosen: Any, work: Path) -> None:
        self.chosen, self.work = chosen, work
        self.log = chosen.log + (f"-{chosen.users}" if chosen.users else "")

    @cached_property
    def engine(self) -> Any:
        path = self.work / f"{self.log}.db"
        fresh = not path.exists()
        engine = open_store(f"sqlite:///{path}", create=fresh)
        if fresh:
            (fill_100k if self.chosen.quick else fill)(engine, self.chosen)
        return engine

    @cache  # noqa: B019 (one for the whole benchmark)
    def dataset(self, part: str, rules: tuple[str, ...]) -> Dataset:
        config = DatasetConfig(tasks=parse_tasks(rules), split=part)  # type: ignore[arg-type]
        with self.engine.connect() as connection:
            return read_dataset(connection, config)


def alone(dataset: Dataset, number: int) -> Dataset:
    """The same samples and features, of which one task is learnt."""
    assert dataset.targets is not None
    column = dataset.targets[:, number]
    assert not np.isnan(column).any()  # every rating says something of each of these tasks
    spec = msgspec.structs.replace(dataset.spec, tasks=(dataset.spec.tasks[number],))
    samples = dataclasses.replace(dataset.samples, spec=spec)
    return dataclasses.replace(dataset, samples=samples, labels=column.astype(np.int8), targets=None)


def with_planted(dataset: Dataset) -> Dataset:
    """The last task's targets turned round for items of as many first categories as three quarters of the samples need.

    Those of the largest categories, so that a few samples say which they are: were it items drawn by a hash, all of it
    would lie in their own embeddings, which a pass or two over a small log does not teach by any way of sharing.
    """
    assert dataset.targets is not None
    first = dataset.samples.items.categories[1:, 0][dataset.log.item[dataset.rows]]
    counts = np.bincount(first)
    largest = np.argsort(-counts, kind="stable")
    turned = np.isin(first, largest[: int(np.searchsorted(counts[largest].cumsum(), TURNED * len(first))) + 1])
    targets = dataset.targets.copy()
    targets[:, -1] = np.where(turned, 1 - targets[:, -1], targets[:, -1])
    return dataclasses.replace(dataset, targets=targets)


def fill(engine: Any, chosen: Any) -> None:
    """Ratings and films of MovieLens, in their order inside each user; of some users where a number is given."""
    ratings, films = read_movielens(chosen.log, chosen.data)
    if chosen.users:
        drawn = sorted(ratings["user"].unique(), key=lambda user: hashlib.sha256(str(user).encode()).digest())
        ratings = ratings[ratings["user"].isin(drawn[: chosen.users])]
    rows = [(f"{row.user:05d}", str(row.film), float(row.timestamp), float(row.rating)) for row in ratings.itertuples()]
    catalogue = {str(own): (title, genres.split("|")) for own, title, genres in films.values}
    put(engine, rows, catalogue)


def fill_100k(engine: Any, _: Any) -> None:
    """The first users of ML-100K."""
    folder = sample_log()
    _, *lines = (folder / "ml-100k.inter").read_text().splitlines()
    cells = sorted((line.split("\t") for line in lines), key=lambda row: (row[0], float(row[3])))
    _, *films = (folder / "ml-100k.item").read_text().splitlines()
    catalogue = {own: (title, genres.split()) for own, title, _, genres in (film.split("\t") for film in films)}
    put(
        engine,
        [(user, item, float(at), float(value)) for user, item, value, at in cells if int(user) <= FIRST],
        catalogue,
    )


def put(engine: Any, rows: list[tuple[str, str, float, float]], catalogue: dict[str, tuple[str, list[str]]]) -> None:
    seen = dict[str, int]()
    made = []
    for user, item, at, value in rows:
        own = {"user_id": user, "seq": seen.get(user, 0), "item_id": item, "action": "rate", "at": at, "value": value}
        seen[user] = own["seq"] + 1  # type: ignore[operator]
        made.append(own)
    with engine.begin() as connection:
        for start in range(0, len(made), 50_000):
            connection.execute(behaviors.insert(), made[start : start + 50_000])
        named = {item for _, item, _, _ in rows}
        insert_new(
            connection, items,
            [item_row(Item(item_id=own, title=title, categories=tuple(genres)))
             for own, (title, genres) in catalogue.items() if own in named],
        )  # fmt: skip
