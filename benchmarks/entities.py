"""Claim: what a log of offers knows of its users besides the offers (AntM2C's bills, visits, searches) is found.

    python benchmarks/entities.py [--seeds 3] [--epochs 6] [--only NAME,...] [--work DIR] [--save FILE] [--quick]

A log in AntM2C's schema with a planted truth (benchmarks/rig/antm2c_told.py): users are new, what they like is told by
the entity columns, and in words that no item has. It is replayed from its CSV, with no --map. Models learn
`action=click`, each variant on a store of its own; `_with` has the entity columns as history, `_without` has not
(`replay --no-entities`), and nothing else differs. Texts are encoded by all-MiniLM-L6-v2.

- din, srp4ctr (not pre-trained): with items' text vectors (`--modality text`), of what is offered and of the past;
- din_ids: DIN without texts: ids of names alone;
- din_match, srp4ctr_match: without the modality, with match scalars (`--match`);
- bahe: the uppermost two layers of SmolLM2-135M, `--sequences recent`, with entities also
  `action:pay,action:visit,action:search`; two passes. bahe_match: with match scalars as well.

The figures are AUCs on the test part's offers; `optimum_*` those of the best that can be known, computed. Means over
seeds; `gain_*` are paired differences, with standard errors. Real: the columns, and what the words mean. Planted:
everything else. --work keeps what has been trained: the same command goes on from there. --quick: one seed, fewer
users, DIN alone. Prints one JSON line.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Engine

from benchmarks.rig.antm2c_told import Told, plant_told
from benchmarks.rig.chosen import planted_options
from fusion.encoders.sentence import open_encoder
from fusion.encoders.split_llm import architecture, recipe_of
from fusion.features.dataset import Dataset, DatasetConfig, read_dataset
from fusion.features.match.features import MatchSpec
from fusion.features.modalities import TEXT, Modality
from fusion.features.splits import TEST
from fusion.features.tasks import Task
from fusion.interests.item_vectors import encode_items, texts_without_vectors
from fusion.models.bahe.model import BaheConfig
from fusion.models.din import DinConfig
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4CtrConfig
from fusion.training import experiment
from fusion.training.artifact import load_artifact
from fusion.training.bahe import begin_with_llm, with_bank_vectors
from fusion.training.metrics import auc
from fusion.training.train import TrainConfig, predict
from interest.store.sql import insert_new, item_row, writing
from interest.store.tables import items as items_table
from interest.types import KNOWN_ACTIONS
from streams.files.entities import offered_catalogue
from streams.files.mapping import ColumnMap
from streams.files.rows import BehaviorLog, LogOptions
from streams.replay.embedded import replay
from streams.settings.load import default_encoder, default_llm
from streams.store.engine import open_store
from streams.ubsp.policy import Policy

TITLES = "{title}"
CUT = 28  # of SmolLM2's 30 layers
Scores = dict[tuple[str, str, float], float]  # of test offers, by user, item and time


class Variant(NamedTuple):
    """Which model, and how it reads texts."""

    model: str
    text: bool = False  # as a modality
    match: bool = False


VARIANTS = {
    "din": Variant("din", text=True),
    "din_ids": Variant("din"),
    "din_match": Variant("din", match=True),
    "srp4ctr": Variant("srp4ctr", text=True),
    "srp4ctr_match": Variant("srp4ctr", match=True),
    "bahe": Variant("bahe"),
    "bahe_match": Variant("bahe", match=True),
}
ENDS = {"with": True, "without": False}  # entities


def main() -> None:
    chosen = planted_options(__doc__, VARIANTS)
    names, seeds, epochs, sizes = chosen.names, chosen.seeds, chosen.epochs, {}
    if chosen.quick:
        names, seeds, epochs, sizes = ["din"], 1, 1, {"users": 150}
    found = []
    for seed in range(seeds):
        told = plant_told(seed, **sizes)
        scores = {
            f"{name}_{end}": kept(told, name, chosen.work, seed, epochs, entities=entities)
            for name in names
            for end, entities in ENDS.items()
        }
        found.append(measured(told, scores))
        print(f"seed {seed}: {json.dumps(found[-1])}", file=sys.stderr, flush=True)
    line = json.dumps({
        "benchmark": "entities", "quick": chosen.quick, "seeds": seeds, "epochs": epochs, **summary(found, names),
        "real": "the columns, what words mean", "planted": "users, likes, items, names, clicks",
    })  # fmt: skip
    if chosen.save:
        chosen.save.write_text(f"{line}\n")
    print(line)


def kept(told: Told, name: str, work: Path | None, seed: int, epochs: int, *, entities: bool) -> Scores:
    """A variant's scores: those that an earlier run has kept of it, or it is trained now."""
    end = "with" if entities else "without"
    file = work / f"{name}_{end}-{seed}-{len(told.known)}-{epochs}.json" if work else None
    if file is not None and file.exists():
        return {(user, item, at): value for user, item, at, value in json.loads(file.read_text())}
    with tempfile.TemporaryDirectory() as folder:
        scores = trained(told, VARIANTS[name], Path(folder), seed, epochs, entities=entities)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps([(*key, value) for key, value in scores.items()]))
        part.rename(file)
    print(f"seed {seed}: {name}_{end} trained", file=sys.stderr, flush=True)
    return scores


def trained(told: Told, variant: Variant, folder: Path, seed: int, epochs: int, *, entities: bool) -> Scores:
    told.planted.write(folder / "log.csv")
    engine = open_store(f"sqlite:///{folder / 'store.db'}")
    try:
        log = BehaviorLog(folder / "log.csv", ColumnMap().of("log", []), LogOptions(entities=entities))
        replay(engine, log, Policy())
        for _, read in offered_catalogue(log):
            for items in read():
                with writing(engine) as connection:
                    insert_new(connection, items_table, [item_row(item) for item in items])
        encoder = encoded(engine) if variant.text or variant.match else ""
        match = MatchSpec(parts=("text", "places", *(("known",) if entities else ())), encoder=encoder, template=TITLES)
        config = DatasetConfig(
            tasks=(Task.parse("action=click"),), history=30, min_history=0, match=match if variant.match else None,
            modalities=(Modality(name=TEXT, encoder=encoder, template=TITLES),) if variant.text else (),
        )  # fmt: skip
        with engine.connect() as connection:
            data = read_dataset(connection, config)
        return learnt(engine, data, variant.model, folder / "model", seed=seed, epochs=epochs, entities=entities)
    finally:
        engine.dispose()


def encoded(engine: Engine) -> str:
    """The text encoder by which every item of the catalogue, names of entities among them, has a vector now."""
    encoder = open_encoder(default_encoder())
    with engine.connect() as connection:
        texts = texts_without_vectors(connection, encoder.id, TITLES)
    encode_items(engine, encoder, texts)
    return encoder.id


def learnt(
    engine: Engine, data: Dataset, model: str, folder: Path, *, seed: int, epochs: int, entities: bool
) -> Scores:
    settings = TrainConfig(epochs=epochs, batch_size=128, seed=seed, unknown=0.2, dense_epochs=2)
    prepare: Callable[[Any], None] = lambda _model: None  # noqa: E731
    chosen: Any = DinConfig(dense_path=True)
    if model == "srp4ctr":
        encoder = FgBertConfig(positions=45, width=32)  # the history, and the 15 moments of a window in training
        chosen = Srp4CtrConfig(encoder=encoder, dense_path=True)
    elif model == "bahe":
        llm = default_llm()
        recipe = recipe_of(llm, CUT)
        data = with_bank_vectors(data, engine, recipe, llm, folder.parent / "bank", quiet)
        known = tuple(f"action:{action}" for action in KNOWN_ACTIONS) if entities else ()
        chosen = own = BaheConfig(
            recipe=recipe, folder=str(llm), architecture=architecture(llm), history=10, sequences=("recent", *known),
        )  # fmt: skip
        settings = TrainConfig(epochs=2, batch_size=128, lr=1e-3, seed=seed, pretrained_rate=0.1, unknown=0.0)
        prepare = lambda fresh: begin_with_llm(fresh, own)  # noqa: E731
    experiment.run(data, chosen, settings, split="global", folder=folder, prepare=prepare)
    model_, rows = load_artifact(folder).model, data.of(TEST)
    values = predict(model_, data.samples, rows)
    log, own_rows = data.log, data.rows[rows]
    keys = zip(log.user[own_rows], log.item[own_rows], log.at[own_rows], values, strict=True)
    return {(log.users[user], log.items[item], float(at)): float(value) for user, item, at, value in keys}


@contextlib.contextmanager
def quiet(_title: str, _total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


def measured(told: Told, scores: dict[str, Scores]) -> dict[str, float]:
    """The AUC of every variant, on the same offers, and of the best that can be known."""
    common, truth = set.intersection(*(set(own) for own in scores.values())), told.planted
    best = {}
    for place, (user, item, at) in enumerate(zip(truth.user, truth.item, truth.at, strict=True)):
        best[f"u{user}", truth.items[item], float(at)] = place
    keys = sorted(common)
    places = np.array([best[key] for key in keys])
    labels = truth.label[places]
    out: dict[str, float] = {"offers": len(keys)}
    for name, values in (("known", told.known), ("without", told.without)):
        out[f"optimum_{'with' if name == 'known' else name}"] = auc(labels, values[places])
    return out | {name: auc(labels, np.array([own[key] for key in keys])) for name, own in scores.items()}


def summary(found: list[dict[str, float]], names: list[str]) -> dict[str, Any]:
    columns = {name: np.array([one[name] for one in found]) for name in found[0]}
    out: dict[str, Any] = {name: round(float(values.mean()), 4) for name, values in columns.items()}
    for name in ("optimum", *names):
        gain = columns[f"{name}_with"] - columns[f"{name}_without"]
        error = round(float(gain.std(ddof=1) / len(gain) ** 0.5), 4) if len(gain) > 1 else None
        out[f"gain_{name}"] = {"mean": round(float(gain.mean()), 4), "error": error}
    return out


if __name__ == "__main__":
    main()
