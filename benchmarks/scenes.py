"""Claim: items that look alike meet under different ids, and a preference carries from one scene to another.

    python benchmarks/scenes.py [--seeds 3] [--epochs 6] [--save FILE] [--quick]

A log in AntM2C's schema with a planted truth (benchmarks/rig/antm2c.py) is replayed from its CSV, with no --map: rows
with label 0 are samples and no history. DIN learns `action=click` on it, each variant on its own store:

- all_with, all_without: the three scenes, with and without the items' pictures (`--item-vectors`);
- alone_with, alone_without: the last scene's rows alone.

The figures are AUCs on the test part's offers of items that are new in the last scene (their twins are old in the
others); `optimum` is that of the planted chances on the same offers; with `_scene` behind, of all test offers of that
scene. All variants are tested on the same offers. Means over seeds; `gain_*` are paired differences and their errors.
Real: the columns. Planted: everything in them. --quick: one seed, fewer users. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sqlalchemy import Engine

from benchmarks.rig.antm2c import SCENES, Planted, plant
from fusion.features.dataset import DatasetConfig, read_dataset
from fusion.features.modalities import Modality
from fusion.features.splits import TEST, TRAIN
from fusion.features.tasks import Task
from fusion.models.din import DinConfig
from fusion.training import experiment
from fusion.training.artifact import load_artifact
from fusion.training.metrics import auc
from fusion.training.train import TrainConfig, predict
from streams.commands.item_vectors import bring_files
from streams.files.mapping import ColumnMap
from streams.files.rows import BehaviorLog
from streams.replay.embedded import replay
from streams.store.engine import open_store
from streams.ubsp.policy import Policy

LAST = SCENES[-1]
VARIANTS = ("all_with", "all_without", "alone_with", "alone_without")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--epochs", type=int, default=6)
    options.add_argument("--save", type=Path)
    options.add_argument("--quick", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    seeds, sizes = chosen.seeds, {}
    if chosen.quick:
        seeds, sizes = 1, {"users": 120, "each": 60}
    found = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            found.append(measured(plant(seed, **sizes), Path(folder), seed, chosen.epochs))
        print(f"seed {seed}: {json.dumps(found[-1])}", file=sys.stderr, flush=True)
    line = json.dumps({
        "benchmark": "scenes", "quick": chosen.quick, "seeds": seeds, "epochs": chosen.epochs, **summary(found),
        "real": "the columns", "planted": "tastes, items, twins, pictures, clicks",
    })  # fmt: skip
    if chosen.save:
        chosen.save.write_text(f"{line}\n")
    print(line)


def measured(truth: Planted, folder: Path, seed: int, epochs: int) -> dict[str, float]:
    """The AUC of every variant, on the same offers, and of the planted chances."""
    pictures = folder / "pictures.parquet"
    pq.write_table(pa.table({"item_id": truth.items, "vector": list(truth.pictures.astype(np.float32))}), pictures)
    scores = {}
    for variant in VARIANTS:
        whole, seen = variant.startswith("all"), variant.endswith("_with")
        log = folder / f"{variant}.csv"
        keep = np.array([whole or truth.scene[item] == LAST for item in truth.item])
        part(truth, keep).write(log)
        engine = open_store(f"sqlite:///{folder / variant}.db")
        replay(engine, BehaviorLog(log, ColumnMap().of("log", [])), Policy())
        if seen:
            with contextlib.redirect_stdout(io.StringIO()):
                bring_files(engine, [f"image={pictures}"])
        scores[variant] = learnt(engine, folder / f"model-{variant}", seen=seen, seed=seed, epochs=epochs)
        engine.dispose()
        print(f"seed {seed}: {variant} trained", file=sys.stderr, flush=True)
    common = set.intersection(*(set(own) for own in scores.values()))
    number = {item: place for place, item in enumerate(truth.items)}
    chance = {}
    for user, item, at, own, label in zip(truth.user, truth.item, truth.at, truth.chance, truth.label, strict=True):
        chance[f"u{user}", truth.items[item], float(at)] = (float(own), int(label))
    scene = [key for key in sorted(common) if truth.scene[number[key[1]]] == LAST]
    new = [key for key in scene if truth.new[number[key[1]]]]
    told: dict[str, float] = {"offers_new": len(new), "offers_scene": len(scene)}
    for name, keys in (("", new), ("_scene", scene)):
        labels = np.array([chance[key][1] for key in keys])
        told[f"optimum{name}"] = auc(labels, np.array([chance[key][0] for key in keys]))
        for variant, own in scores.items():
            told[f"{variant}{name}"] = auc(labels, np.array([own[key] for key in keys]))
    return told


def part(truth: Planted, keep: np.ndarray) -> Planted:
    rows = {name: getattr(truth, name)[keep] for name in ("user", "item", "at", "label", "chance")}
    return dataclasses.replace(truth, **rows)


def learnt(engine: Engine, folder: Path, *, seen: bool, seed: int, epochs: int) -> dict[tuple[str, str, float], float]:
    """A DIN's scores of the test offers, by user, item and time."""
    config = DatasetConfig(
        tasks=(Task.parse("action=click"),), history=30, min_history=2,
        modalities=(Modality(name="image"),) if seen else (),
    )  # fmt: skip
    with engine.connect() as connection:
        data = read_dataset(connection, config)
    settings = TrainConfig(epochs=epochs, batch_size=128, seed=seed, unknown=0.2, dense_epochs=2)
    experiment.run(data, DinConfig(dense_path=True), settings, split="global", folder=folder)
    model, rows = load_artifact(folder).model, data.of(TEST)
    values = predict(model, data.samples, rows)
    assert len(data.of(TRAIN))
    log, own = data.log, data.rows[rows]
    keys = zip(log.user[own], log.item[own], log.at[own], values, strict=True)
    return {(log.users[user], log.items[item], float(at)): float(value) for user, item, at, value in keys}


def summary(found: list[dict[str, float]]) -> dict[str, Any]:
    columns = {name: np.array([one[name] for one in found]) for name in found[0]}
    told: dict[str, Any] = {name: round(float(values.mean()), 4) for name, values in columns.items()}
    for name, one, other in (
        ("gain_modality", "all_with", "all_without"),
        ("gain_scenes", "all_with", "alone_with"),
        ("gain_scenes_scene", "all_with_scene", "alone_with_scene"),
        ("below_optimum", "optimum", "all_with"),
    ):
        difference = columns[one] - columns[other]
        error = float(difference.std(ddof=1) / len(difference) ** 0.5) if len(difference) > 1 else None
        told[name] = {"mean": round(float(difference.mean()), 4), "error": None if error is None else round(error, 4)}
    return told


if __name__ == "__main__":
    main()
