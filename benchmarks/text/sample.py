"""A sample of ML-1M on which full text can be trained: some users, the first 51 ratings of each, a log of its own.

Nobody's past is longer than 50 behaviours, so no history is ever cut and one causal pass over a user's text is exact
for all of the user's moments. Rows are moments with at least 5 earlier events; inside every user, in order, the first
60 % of the events train, the next 10 % select, the last 30 % test: scoring is cheap, and the test part is what limits
the standard error.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine

from fusion.bank.index import texts_of
from fusion.encoders.behavior_text import Template
from fusion.features.dataset import FEW, Dataset, statistics_of
from fusion.features.log import Array, Log, read_log
from fusion.features.samples import fit_samples
from fusion.features.splits import TEST, TRAIN, VALID, eligible
from fusion.features.tasks import Task
from interest.store.sql import read_items, read_users
from streams.store.engine import open_store

EVENTS = 51  # of a user; before the last of them are 50 behaviours
HISTORY = EVENTS - 1
TRAINED = 0.6  # of a user's events
LEAST = 5  # earlier events that a row needs, as in the protocol
TASK = Task.parse("value>=4")


def choose(rows: Any, users: int) -> Any:
    """The first events of `users` users, who are drawn by a hash of their ids among those with enough events."""
    size = rows.groupby("user_id")["seq"].transform("size")
    there = rows.loc[size >= EVENTS, "user_id"].unique().tolist()
    drawn = sorted(there, key=lambda user: hashlib.sha256(str(user).encode()).digest())[:users]
    return rows[rows["user_id"].isin(drawn) & (rows["seq"] < EVENTS)].reset_index(drop=True)


def open_sample(rows: Any, data: Path, users: int, work: Path) -> Engine:
    """A store with the sample's behaviours, and with the bank; filled once."""
    return _filled(work / f"sample-{users}.db", choose(rows, users), data)


def open_training_part(rows: Any, data: Path, users: int, work: Path) -> Engine:
    """A store with the behaviours of the sample's training part alone; filled once."""
    sample = choose(rows, users)
    return _filled(work / f"sample-{users}-train.db", sample[sample["seq"] < int(TRAINED * EVENTS)], data)


def _filled(path: Path, rows: Any, data: Path) -> Engine:
    from benchmarks.ctr_din import fill

    if not path.exists():
        partial = path.parent / "partial.db"
        for old in path.parent.glob("partial.db*"):
            old.unlink()
        engine = open_store(f"sqlite:///{partial}")
        fill(engine, rows, data)
        engine.dispose()
        partial.replace(path)
    return open_store(f"sqlite:///{path}", create=False)


def parts(log: Log) -> Array:
    """(N,) int8 of TRAIN, VALID, TEST."""
    own = np.diff(log.starts)[log.user]
    position = log.position()
    out = np.full(log.size, TEST, np.int8)
    out[position < (0.7 * own).astype(np.int64)] = VALID
    out[position < (TRAINED * own).astype(np.int64)] = TRAIN
    return out


def read_sample(engine: Engine) -> Dataset:
    """The samples as `read_dataset` makes them, with the parts of this file and its slices: warm, cold, unseen."""
    with engine.connect() as connection:
        log = read_log(connection)
        catalogue, profiles = read_items(connection), read_users(connection)
    labels, part = TASK.rule.labels(log), parts(log)
    rows = np.flatnonzero(eligible(log, LEAST))
    samples = fit_samples(
        log, rows, part == TRAIN, catalogue, profiles, tasks=(TASK,), history=HISTORY, min_history=LEAST
    )  # fmt: skip
    times = np.bincount(log.item[rows[part[rows] == TRAIN]], minlength=len(log.items))[log.item[rows]]
    return Dataset(
        log=log,
        samples=samples,
        rows=rows,
        labels=labels[rows],
        part=part[rows],
        statistics=statistics_of(samples.spec, log, labels),
        slices={"warm": times >= FEW, "cold": times < FEW, "unseen": times == 0},
    )


def repeats(dataset: Dataset, rows: Any) -> dict[str, dict[str, float]]:
    """How many behaviours share a text, in the sample and in all of ML-1M (`rows`, the protocol's).

    The texts are the bank's: of behaviours and of items.
    """
    log, found = dataset.log, texts_of(dataset.samples, Template())
    whole = {
        "behaviors": len(rows),
        "behavior_texts": len(rows[["movie_id", "rating"]].drop_duplicates()),
        "item_texts": rows["movie_id"].nunique(),
        "training_rows": int((rows["eligible"] & (rows["per_user"] == "train")).sum()),
    }
    own = {
        "behaviors": log.size,
        "behavior_texts": len(np.unique(found.event)),
        "item_texts": len(np.unique(found.item[1:])),
        "training_rows": len(dataset.of(TRAIN)),
    }
    return {
        name: it
        | {"texts": it["behavior_texts"] + it["item_texts"], "behaviors_a_text": it["behaviors"] / it["behavior_texts"]}
        for name, it in (("sample", own), ("ml-1m", whole))
    }
