"""Claim: on MovieLens-1M, split by time, our DIN beats LightGBM on the same counts, and a public DIN (AUC .8034).

    python benchmarks/ctr_din.py [--data ../shared/data] [--quick] [--seeds 3] [--save benchmarks/results/ctr_din.json]

`ml1m/protocol.py` defines the rows, the split and the tails, and says which data --data needs. Puts the ratings into a
temporary store, and trains through the same path as `interestream train din`. Selection sees only the validation part.
Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from sqlalchemy import Engine

from benchmarks.ml1m.protocol import FILMS, PEOPLE, read_rows
from fusion.features.dataset import Dataset, DatasetConfig, read_dataset
from fusion.features.log import Array
from fusion.features.splits import TEST, TRAIN, VALID
from fusion.features.tasks import Task
from fusion.models.din import Din, DinConfig
from fusion.training import metrics
from fusion.training.train import TrainConfig, predict, train
from interest.store.sql import insert_new, item_row, user_row
from interest.store.tables import behaviors, items, users
from interest.types import Item, User
from streams.store.engine import open_store

PUBLIC = {  # measured on the same rows with one seed, for comparison; not run here
    "FuxiCTR DCNv2 (public)": {"auc": 0.7971, "log_loss": 0.5400, "gauc": 0.7467, "bulk_tail": 0.8050, "cold": 0.7806},
    "FuxiCTR DIN (public)": {"auc": 0.8034, "log_loss": 0.5334, "gauc": 0.7514, "bulk_tail": 0.8112, "cold": 0.7932},
}
COLUMNS = ("auc", "log_loss", "gauc", "bulk_tail", "cold")
BOOSTING: dict[str, Any] = {
    "rounds": 2000,
    "patience": 50,
    "settings": {
        "objective": "binary", "metric": "auc", "num_leaves": 63, "learning_rate": 0.05, "min_data_in_leaf": 200,
        "num_threads": 1, "verbosity": -1, "seed": 0,
    },
}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--quick", action="store_true", help="600 users, one seed, one epoch")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)

    rows = read_rows(chosen.data)
    if chosen.quick:
        rows = rows[rows["user_id"] % 10 == 0].reset_index(drop=True)
    dataset = load(rows, chosen.data)
    test = dataset.of(TEST)
    same_rows(rows, dataset, exact=not chosen.quick)
    slices = {
        "bulk_tail": rows["bulk_tail_global"].to_numpy()[dataset.rows[test]],
        "cold": dataset.slices["cold_users"][test],
    }

    def measured(scores: Array) -> dict[str, float]:
        labels, owner = dataset.labels[test], dataset.log.user[dataset.rows[test]]
        out = {name: metrics.auc(labels[part], scores[part]) for name, part in slices.items()}
        return out | {
            "auc": metrics.auc(labels, scores),
            "log_loss": metrics.log_loss(labels, scores),
            "gauc": metrics.gauc(labels, scores, owner),
        }

    results: dict[str, dict[str, float]] = {}
    for name, column in (("item mean", "item_mean"), ("user + item mean", "expected")):
        results[name] = measured(fitted(dataset, column, test))
    results["LightGBM on the same counts"] = measured(gradient_boosting(dataset, test))
    settings = TrainConfig(epochs=1) if chosen.quick else TrainConfig()
    runs = []
    for seed in range(1 if chosen.quick else chosen.seeds):
        scores, noted = deep_interest(dataset, test, msgspec.structs.replace(settings, seed=seed))
        runs.append(measured(scores) | noted)
        print(f"seed {seed}: {runs[-1]}", file=sys.stderr, flush=True)
    mean = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
    results["Interestream DIN"] = mean | {
        "auc_sd": float(np.std([run["auc"] for run in runs], ddof=min(1, len(runs) - 1)))
    }
    table(PUBLIC | results)
    line = {
        "benchmark": "ctr_din",
        "command": "python benchmarks/ctr_din.py" + " --quick" * chosen.quick,
        "protocol": "ML-1M, rating >= 4, global time 80/10/10, at least 5 earlier events",
        "rows": {"train": len(dataset.of(TRAIN)), "valid": len(dataset.of(VALID)), "test": len(test)},
        "seeds": [{name: round(value, 4) for name, value in run.items()} for run in runs],
        "results": {name: {k: round(v, 4) for k, v in own.items()} for name, own in results.items()},
        "threads": chosen.threads,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "lightgbm": version("lightgbm"),
        },
    }
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def load(rows: Any, data: Path) -> Dataset:
    """The rows through a store, as any log goes."""
    with tempfile.TemporaryDirectory() as folder:
        engine = open_store(f"sqlite:///{folder}/ml1m.db")
        fill(engine, rows, data)
        with engine.connect() as connection:
            dataset = read_dataset(connection, DatasetConfig(tasks=(Task.parse("value>=4"),)))
        engine.dispose()
    return dataset


def fill(engine: Engine, rows: Any, data: Path) -> None:
    """Put the rows, the films and the people into a store, in one transaction."""
    import pandas as pd

    with engine.begin() as connection:
        for start in range(0, len(rows), 50_000):
            part = rows.iloc[start : start + 50_000]
            connection.execute(behaviors.insert(), [_behavior(row) for row in part.itertuples()])
        movies, people = pd.read_parquet(data / FILMS), pd.read_parquet(data / PEOPLE)
        insert_new(connection, items, [item_row(_item(row)) for row in movies.itertuples()])
        insert_new(connection, users, [user_row(_user(row)) for row in people.itertuples()])


def same_rows(rows: Any, dataset: Dataset, *, exact: bool) -> None:
    """Stop unless the samples, labels and parts are the protocol's."""
    chosen = rows[rows["eligible"]]
    assert np.array_equal(np.flatnonzero(rows["eligible"]), dataset.rows)
    assert np.array_equal(chosen["label"], dataset.labels)
    if exact:  # a subset of users is split by its own times
        assert np.array_equal(chosen["global_time"], np.array(["train", "valid", "test"])[dataset.part])


def fitted(dataset: Dataset, column: str, test: Array) -> Array:
    """One count, calibrated on the training rows by a logistic regression, so that its log loss means something."""
    from sklearn.linear_model import LogisticRegression

    own = dataset.samples.dense[:, [dataset.spec.dense.index(column)]]
    model = LogisticRegression().fit(own[dataset.of(TRAIN)], dataset.labels[dataset.of(TRAIN)])
    return np.asarray(model.predict_proba(own[test])[:, 1])


def gradient_boosting(dataset: Dataset, test: Array) -> Array:
    import lightgbm

    x, y = dataset.samples.dense, dataset.labels
    train_set = lightgbm.Dataset(x[dataset.of(TRAIN)], y[dataset.of(TRAIN)])
    valid_set = lightgbm.Dataset(x[dataset.of(VALID)], y[dataset.of(VALID)])
    stop = lightgbm.early_stopping(BOOSTING["patience"], verbose=False)
    model = lightgbm.train(
        BOOSTING["settings"], train_set, BOOSTING["rounds"], valid_sets=[valid_set], callbacks=[stop]
    )
    return np.asarray(model.predict(x[test]))


def deep_interest(dataset: Dataset, test: Array, config: TrainConfig) -> tuple[Array, dict[str, float]]:
    """Scores of the test part; the best validation AUC and the training rows a second, validation included.

    `rows_per_s` is by the clock, `rows_per_cpu_s` by the processor time of this process: what an idle core would reach.
    """
    torch.manual_seed(config.seed)
    model, start, busy = Din(dataset.spec, DinConfig()), time.perf_counter(), time.process_time()
    epochs = train(model, dataset.samples, dataset.labels, (dataset.of(TRAIN), dataset.of(VALID)), config, report=_say)
    rows = len(epochs) * len(dataset.of(TRAIN))
    speed = {
        "rows_per_s": rows / (time.perf_counter() - start),
        "rows_per_cpu_s": rows / (time.process_time() - busy),
    }
    return predict(model, dataset.samples, test), speed | {"valid_auc": max(epoch.auc for epoch in epochs)}


def table(results: dict[str, dict[str, float]]) -> None:
    print(f"{'model':30}" + "".join(f"{name:>11}" for name in (*COLUMNS, "rows/s")))
    for name, own in results.items():
        speed = f"{own['rows_per_s']:>11,.0f}" if "rows_per_s" in own else f"{'-':>11}"
        print(f"{name:30}" + "".join(f"{own[column]:>11.4f}" for column in COLUMNS) + speed)


def _say(epoch: Any) -> None:
    print(epoch, file=sys.stderr, flush=True)


def _behavior(row: Any) -> dict[str, object]:
    # zero-padded, so that the store's order of users is the protocol's
    return {
        "user_id": f"{row.user_id:05d}",
        "seq": row.seq,
        "item_id": str(row.movie_id),
        "action": "rate",
        "at": float(row.timestamp),
        "value": float(row.rating),
    }


def _item(row: Any) -> Item:
    year = re.search(r"\((\d{4})\)\s*$", row.title)
    return Item(
        item_id=str(row.movie_id),
        title=row.title,
        categories=tuple(row.genres.split("|")),
        attributes={"release_year": year[1]} if year else {},
    )


def _user(row: Any) -> User:
    own = {"gender": row.gender, "age": str(row.age), "occupation": str(row.occupation), "zip": str(row.zip)}
    return User(user_id=f"{row.user_id:05d}", attributes=own)


if __name__ == "__main__":
    main()
