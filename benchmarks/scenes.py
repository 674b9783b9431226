"""Claim: items that look alike meet under different ids, and a preference carries from one scene to another.

    python benchmarks/scenes.py [--log planted|ml-1m] [--seeds 3] [--epochs 6] [--only NAME,...] [--data ../shared/data]
                                [--work DIR] [--save FILE] [--quick]

A log in AntM2C's schema with a planted truth (benchmarks/rig/antm2c.py) is replayed from its CSV, with no --map: rows
with label 0 are samples and no history. Models learn `action=click` on it, each variant on its own store:

- all_with, all_without: DIN on the three scenes, with and without the items' pictures (`--item-vectors`);
- all_text: DIN with the titles' vectors (all-MiniLM-L6-v2) in the pictures' place: twins have the same title;
- all_entities: all_with, and what the entity columns know of a user is history; a user's clicks have told it by then,
  so that nothing is to be gained (benchmarks/entities.py has a log on which there is);
- alone_with, alone_without: DIN on the last scene's rows alone;
- srp4ctr_with, srp4ctr_without: SRP4CTR as `train srp4ctr` makes it, not pre-trained, on the three scenes.

The figures are AUCs on the test part's offers of items that are new in the last scene (their twins are old in the
others); `optimum` is that of the planted chances on the same offers; with `_scene` behind, of all test offers of that
scene. All variants are tested on the same offers. Means over seeds; `gain_*` are paired differences and their errors.
Real: the columns. Planted: everything in them.

--log ml-1m: the first 60 ratings of 600 of MovieLens-1M's users as three shops' offers (benchmarks/rig/shops.py): what
was liked and what films are about is real, the shops are planted. In the pictures' place are vectors of films' texts
(title, genres, director and plot by all-MiniLM-L6-v2), and there is no optimum.

--work keeps what has been trained: the same command goes on from there.
--quick: one seed, fewer users. Prints one JSON line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine

from benchmarks.rig.antm2c import SCENES, Planted, plant
from benchmarks.rig.chosen import planted_options
from benchmarks.rig.shops import shops
from fusion.encoders.sentence import open_encoder
from fusion.features.dataset import DatasetConfig, read_dataset
from fusion.features.modalities import TEXT, Modality
from fusion.features.splits import TEST, TRAIN
from fusion.features.tasks import Task
from fusion.interests.item_vectors import encode_items, texts_without_vectors
from fusion.models.din import DinConfig
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4CtrConfig
from fusion.training import experiment
from fusion.training.artifact import load_artifact
from fusion.training.metrics import auc
from fusion.training.train import TrainConfig, predict
from interest.store.sql import insert_new, item_row, writing
from interest.store.tables import items as items_table
from streams.commands.item_vectors import bring_files
from streams.files.mapping import ColumnMap
from streams.files.offer_log import titled_items
from streams.files.rows import BehaviorLog, LogOptions
from streams.replay.embedded import replay
from streams.settings.load import default_encoder
from streams.store.engine import open_store
from streams.ubsp.policy import Policy

LAST = SCENES[-1]
TITLES = "{title}"
Scores = dict[tuple[str, str, float], float]  # of test offers, by user, item and time


class Variant(NamedTuple):
    """What is learnt from, and by which model."""

    whole: bool = True  # all scenes' rows
    modality: str = ""  # image, text
    model: str = "din"
    entities: bool = False  # what is known of users, as behaviours


VARIANTS = {
    "all_with": Variant(modality="image"),
    "all_without": Variant(),
    "all_text": Variant(modality=TEXT),
    "all_entities": Variant(modality="image", entities=True),
    "alone_with": Variant(whole=False, modality="image"),
    "alone_without": Variant(whole=False),
    "srp4ctr_with": Variant(modality="image", model="srp4ctr"),
    "srp4ctr_without": Variant(model="srp4ctr"),
}
OF_RATINGS = ("all_with", "all_without", "alone_with", "alone_without", "srp4ctr_with", "srp4ctr_without")
LOGS = {
    "planted": {"real": "the columns", "planted": "tastes, items, twins, pictures, titles, clicks"},
    "ml-1m": {"real": "users, films, texts, times, what was liked", "planted": "shops, each film's id in each shop"},
}
GAINS = (
    ("gain_modality", "all_with", "all_without"),
    ("gain_entities", "all_entities", "all_with"),
    ("gain_text", "all_text", "all_without"),
    ("gain_modality_srp4ctr", "srp4ctr_with", "srp4ctr_without"),
    ("gain_modality_scene", "all_with_scene", "all_without_scene"),
    ("gain_modality_srp4ctr_scene", "srp4ctr_with_scene", "srp4ctr_without_scene"),
    ("gain_scenes", "all_with", "alone_with"),
    ("gain_scenes_scene", "all_with_scene", "alone_with_scene"),
    ("below_optimum", "optimum", "all_with"),
)


def main() -> None:
    chosen = planted_options(__doc__, VARIANTS, LOGS)
    names, seeds = chosen.names, 1 if chosen.quick else chosen.seeds
    if chosen.log == "ml-1m":
        names = [name for name in names if name in OF_RATINGS]
        if not names:
            sys.exit(f"--only {chosen.only}: of --log ml-1m there are {', '.join(OF_RATINGS)}")
    found = []
    for seed in range(seeds):
        truth = made(chosen.log, seed, chosen.data, quick=chosen.quick)
        scores = {name: kept(truth, name, chosen.work, seed, chosen.epochs) for name in names}
        found.append(measured(truth, scores))
        print(f"seed {seed}: {json.dumps(found[-1])}", file=sys.stderr, flush=True)
    line = json.dumps({
        "benchmark": "scenes", "log": chosen.log, "quick": chosen.quick, "seeds": seeds, "epochs": chosen.epochs,
        **summary(found), **LOGS[chosen.log],
    })  # fmt: skip
    if chosen.save:
        chosen.save.write_text(f"{line}\n")
    print(line)


def made(log: str, seed: int, data: Path, *, quick: bool) -> Planted:
    if log == "ml-1m":
        return shops(seed, data, users=100 if quick else 600)
    return plant(seed, users=120, each=60) if quick else plant(seed)


def kept(truth: Planted, name: str, work: Path | None, seed: int, epochs: int) -> Scores:
    """A variant's scores: those that an earlier run has kept of it, or it is trained now."""
    # by what they rest on: another size or length is another run
    file = work / f"{name}-{seed}-{len(truth.at)}-{epochs}.json" if work else None
    if file is not None and file.exists():
        return {(user, item, at): value for user, item, at, value in json.loads(file.read_text())}
    with tempfile.TemporaryDirectory() as folder:
        scores = trained(truth, VARIANTS[name], Path(folder), seed, epochs)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps([(*key, value) for key, value in scores.items()]))
        part.rename(file)
    print(f"seed {seed}: {name} trained", file=sys.stderr, flush=True)
    return scores


def trained(truth: Planted, variant: Variant, folder: Path, seed: int, epochs: int) -> Scores:
    keep = np.array([variant.whole or truth.scene[item] == LAST for item in truth.item])
    part(truth, keep).write(folder / "log.csv")
    engine = open_store(f"sqlite:///{folder / 'store.db'}")
    log = BehaviorLog(folder / "log.csv", ColumnMap().of("log", []), LogOptions(entities=variant.entities))
    replay(engine, log, Policy())
    modalities: tuple[Modality, ...] = ()
    if variant.modality == TEXT:
        assert log.offers is not None
        for items in titled_items(log.file, "item_id", log.offers):
            with writing(engine) as connection:
                insert_new(connection, items_table, [item_row(item) for item in items])
        encoder = open_encoder(default_encoder())
        with engine.connect() as connection:
            texts = texts_without_vectors(connection, encoder.id, TITLES)
        encode_items(engine, encoder, texts)
        modalities = (Modality(name=TEXT, encoder=encoder.id, template=TITLES),)
    elif variant.modality:
        pictures = folder / "pictures.parquet"
        pq.write_table(pa.table({"item_id": truth.items, "vector": list(truth.pictures.astype(np.float32))}), pictures)
        with contextlib.redirect_stdout(io.StringIO()):
            bring_files(engine, [f"image={pictures}"])
        modalities = (Modality(name="image"),)
    try:
        return learnt(engine, folder / "model", variant.model, modalities, seed=seed, epochs=epochs)
    finally:
        engine.dispose()


def measured(truth: Planted, scores: dict[str, Scores]) -> dict[str, float]:
    """The AUC of every variant, on the same offers, and of the planted chances."""
    common = set.intersection(*(set(own) for own in scores.values()))
    number = {item: place for place, item in enumerate(truth.items)}
    chance = {}
    for user, item, at, own, label in zip(truth.user, truth.item, truth.at, truth.chance, truth.label, strict=True):
        chance[f"u{user}", truth.items[item], float(at)] = (float(own), int(label))
    planted = not np.isnan(truth.chance).any()
    scene = [key for key in sorted(common) if truth.scene[number[key[1]]] == LAST]
    new = [key for key in scene if truth.new[number[key[1]]]]
    told: dict[str, float] = {"offers_new": len(new), "offers_scene": len(scene)}
    for name, keys in (("", new), ("_scene", scene)):
        labels = np.array([chance[key][1] for key in keys])
        if planted:
            told[f"optimum{name}"] = auc(labels, np.array([chance[key][0] for key in keys]))
        for variant, own in scores.items():
            told[f"{variant}{name}"] = auc(labels, np.array([own[key] for key in keys]))
    return told


def part(truth: Planted, keep: np.ndarray) -> Planted:
    rows = {name: getattr(truth, name)[keep] for name in ("user", "item", "at", "label", "chance")}
    return dataclasses.replace(truth, **rows)


def learnt(
    engine: Engine, folder: Path, model: str, modalities: tuple[Modality, ...], *, seed: int, epochs: int
) -> Scores:
    config = DatasetConfig(tasks=(Task.parse("action=click"),), history=30, min_history=2, modalities=modalities)
    with engine.connect() as connection:
        data = read_dataset(connection, config)
    settings = TrainConfig(epochs=epochs, batch_size=128, seed=seed, unknown=0.2, dense_epochs=2)
    encoder = FgBertConfig(positions=45)  # the history, and the 15 moments of a window in training
    srp4ctr = Srp4CtrConfig(encoder=encoder, dense_path=True, lifelong=True)
    chosen = DinConfig(dense_path=True) if model == "din" else srp4ctr
    experiment.run(data, chosen, settings, split="global", folder=folder)
    model_, rows = load_artifact(folder).model, data.of(TEST)
    values = predict(model_, data.samples, rows)
    assert len(data.of(TRAIN))
    log, own = data.log, data.rows[rows]
    keys = zip(log.user[own], log.item[own], log.at[own], values, strict=True)
    return {(log.users[user], log.items[item], float(at)): float(value) for user, item, at, value in keys}


def summary(found: list[dict[str, float]]) -> dict[str, Any]:
    columns = {name: np.array([one[name] for one in found]) for name in found[0]}
    told: dict[str, Any] = {name: round(float(values.mean()), 4) for name, values in columns.items()}
    for name, one, other in GAINS:
        if one not in columns or other not in columns:
            continue
        difference = columns[one] - columns[other]
        error = float(difference.std(ddof=1) / len(difference) ** 0.5) if len(difference) > 1 else None
        told[name] = {"mean": round(float(difference.mean()), 4), "error": None if error is None else round(error, 4)}
    return told


if __name__ == "__main__":
    main()
