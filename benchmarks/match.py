"""Claim: with match scalars SRP4CTR and DIN are above themselves without, and above LightGBM on counts, text and ids.

    python benchmarks/match.py [--log ml-small|ml-1m|ml-100k] [--split user|global] [--only PATTERNS] [--seeds 3]
                               [--until SHARE] [--data ../shared/data] [--save FILE] [--quick]
                               [--year] [--encoder FOLDER] (trials: with a --work and --results of their own)

Rows with at least 5 earlier events of their user, a label is 1 where the rating is at least 4, 80/10/10 by time or
inside every user (ML-100K is the sample log of `interestream fetch`). Everything goes through a store, as `interestream
fuse`, `pretrain fgbert` and `train` do: items' texts are title and genres, by MiniLM. LightGBM reads the counts; `+
text` the similarity to what the user liked by the items' texts, `+ ids` the same by a space of ratings alone,
cross-fitted over users; `all scalars` what the models read. Selection sees only the validation part. A run is kept in
benchmarks/results/match/ and not made twice, so the benchmark can be stopped between runs and goes on. Differences are
paired over users (bootstrap). Prints a table of what there is and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import tempfile
import time
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from sqlalchemy import Engine

from benchmarks.paired import bootstrap
from benchmarks.rig.match_store import SAMPLE, fill, fill_sample
from benchmarks.rig.movielens import LOGS
from fusion.encoders.sentence import open_encoder
from fusion.features.counts import NAMES
from fusion.features.dataset import Dataset, DatasetConfig, read_dataset, read_labelled
from fusion.features.impressions import impressions_of
from fusion.features.log import Array
from fusion.features.match.features import MatchSpec, Part, fit_match, match_features, trained_numbers
from fusion.features.match.scalars import SIMILAR
from fusion.features.splits import TEST, TRAIN, VALID, split
from fusion.features.tasks import Task
from fusion.interests.item_vectors import encode_items, texts_without_vectors
from fusion.models.din import DinConfig
from fusion.models.registry import build, kind_of
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4Ctr, Srp4CtrConfig, ablations
from fusion.training import metrics
from fusion.training.pretrain import PretrainConfig
from fusion.training.pretrained import Pretrained, load_pretrained, take_over
from fusion.training.pretrained import run as pretrain
from fusion.training.train import TrainConfig, predict, suited_epochs, train
from interest.errors import ArtifactError
from streams.resolve.encoder import encoder_folder
from streams.settings.load import cache_folder
from streams.store.engine import open_store

TEXT = "{title}. {categories}"
RESULTS = Path(__file__).parent / "results" / "match"
BOOSTING = {
    "objective": "binary", "metric": "auc", "num_leaves": 31, "learning_rate": 0.03, "min_data_in_leaf": 100,
    "feature_fraction": 0.8, "bagging_fraction": 0.8, "bagging_freq": 1, "num_threads": 1, "verbosity": -1,
}  # fmt: skip
ROUNDS, PATIENCE = 2000, 50
SEEDS = 3  # where --seeds does not say
BOOSTED = ("LightGBM", "LightGBM + text", "LightGBM + ids", "LightGBM + text + ids", "LightGBM, all scalars")
LEARNT = ("DIN", "DIN + match", "SRP4CTR", "SRP4CTR + match")
PACK, HISTORY = 15, 50  # the defaults of the commands
PRETRAIN = PretrainConfig()
DIN, SRP = TrainConfig(epochs=0), TrainConfig(epochs=0, embedding_decay=0.2)  # 0: as many as suit the log
SRP_MORE = {"value_task": 0.5, "lifelong": True, "dense_path": True}


def main() -> None:
    chosen = options_of(__doc__).parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.quick:
        with tempfile.TemporaryDirectory() as folder:
            run_all(chosen, Path(folder), Path(folder) / "results", 1)
        return
    run_all(chosen, chosen.work, chosen.results, chosen.seeds)


def of_seeds(seeds: int) -> str:
    """The option as a line's command has it."""
    return "" if seeds == SEEDS else f" --seeds {seeds}"


def options_of(about: str | None) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--log", choices=(*LOGS, SAMPLE), default="ml-small")
    options.add_argument("--split", choices=("user", "global"), default="user")
    options.add_argument(
        "--until", type=float, default=1.0, help="the oldest share of the ratings alone; not ml-100k's"
    )
    options.add_argument("--only", default="*", help="patterns of model/seed, separated by |")
    options.add_argument("--seeds", type=int, default=SEEDS)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--work", type=Path, default=cache_folder() / "match", help="store, encoders and scores")
    options.add_argument("--lr", type=float, help="a trial: another learning rate; give another --work and --results")
    options.add_argument("--year", action="store_true", help="a trial, likewise: release years as match scalars")
    options.add_argument("--encoder", help="a trial, likewise: items' texts by this encoder")
    options.add_argument("--results", type=Path, default=RESULTS)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--quick", action="store_true", help="60 users, one seed, one epoch; nothing kept")
    options.add_argument("--report", action="store_true", help="run nothing; the table of what there is")
    options.add_argument("--save", type=Path)
    return options


def run_all(chosen: Any, work: Path, results: Path, seeds: int) -> None:
    for folder in (work / "scores", results):
        folder.mkdir(parents=True, exist_ok=True)
    runs = [(model, seed) for model in (*BOOSTED, *LEARNT) for seed in range(seeds)]
    patterns = [pattern.strip() for pattern in chosen.only.split("|")]
    wanted = [run for run in runs if any(fnmatch(f"{run[0]}/{run[1]}", pattern) for pattern in patterns)]
    data = Data(chosen, work)
    for model, seed in [] if chosen.report else wanted:
        name = run_name(chosen, model, seed)
        if (results / f"{name}.json").exists():
            continue
        say(name)
        began = time.perf_counter()
        scores, noted = (
            boosted(data, model, seed)
            if model in BOOSTED
            else learnt(data, model, seed, quick=chosen.quick, lr=chosen.lr)
        )
        line = {part: measure(data.plain, which, scores[part]) for part, which in (("valid", VALID), ("test", TEST))}
        line |= noted | {"minutes": (time.perf_counter() - began) / 60}
        np.savez(work / "scores" / f"{name}.npz", **{part: own.astype(np.float32) for part, own in scores.items()})  # type: ignore[arg-type]
        (results / f"{name}.json").write_text(json.dumps(rounded(line), indent=1) + "\n")
        say(f"  validation AUC {line['valid']['auc']:.4f}, test AUC {line['test']['auc']:.4f}")
    report(chosen, data, results, runs)


class Data:
    """One log and split, read when it is first needed."""

    def __init__(self, chosen: Any, work: Path) -> None:
        self.chosen, self.work = chosen, work

    @cached_property
    def engine(self) -> Engine:
        path = self.work / f"{log_name(self.chosen)}.db"
        fresh = not path.exists()
        engine = open_store(f"sqlite:///{path}", create=fresh)
        if fresh:
            fill_sample(engine) if self.chosen.log == SAMPLE else fill(engine, self.chosen)
        encoder = open_encoder(encoder_folder(self.chosen.encoder))
        with engine.connect() as connection:
            texts = texts_without_vectors(connection, encoder.id, TEXT)
        encode_items(engine, encoder, texts)
        self.encoder_id = encoder.id
        return engine

    @property
    def config(self) -> DatasetConfig:
        return DatasetConfig(tasks=(Task.parse("value>=4"),), split=self.chosen.split, history=HISTORY)

    def read(self, match: MatchSpec | None) -> Dataset:
        with self.engine.connect() as connection:
            return read_dataset(connection, dataclasses.replace(self.config, match=match))

    @cached_property
    def plain(self) -> Dataset:
        return self.read(None)

    @cached_property
    def matched(self) -> Dataset:
        began, _ = time.perf_counter(), self.engine  # which opens the encoder
        parts: tuple[Part, ...] = ("text", "places", "support", *(("year",) if self.chosen.year else ()))
        read = self.read(MatchSpec(parts=parts, encoder=self.encoder_id, template=TEXT))
        say(f"  match scalars of {len(read.samples):,} rows, with the reading: {time.perf_counter() - began:.0f} s")
        return read

    @cached_property
    def ids(self) -> Array:
        """(n, 6): the similarity scalars of a space of ratings alone."""
        dataset, spec = self.plain, MatchSpec(parts=("places",))
        log, rule = dataset.log, dataset.spec.label
        train_events, text = split(log, self.chosen.split) == TRAIN, np.zeros((len(log.items), 0), np.float32)
        match = fit_match(spec, log, train_events, rule, text, None)
        impressions, past = impressions_of(log, dataset.rows)
        made = match_features(
            match, log, rule, impressions, past,
            number=trained_numbers(log, train_events), text=text, training=train_events[dataset.rows],
        )  # fmt: skip
        return made[:, : len(SIMILAR)]

    @cached_property
    def pretrained(self) -> Pretrained:
        folder = self.work / f"fgbert-{log_name(self.chosen)}-{self.chosen.split}"
        try:
            return load_pretrained(folder)
        except ArtifactError:
            with self.engine.connect() as connection:
                read = read_labelled(connection, self.config)
            config = msgspec.structs.replace(PRETRAIN, epochs=1) if self.chosen.quick else PRETRAIN
            pretrain(read, FgBertConfig(positions=HISTORY + PACK - 1), config, split=self.chosen.split, folder=folder)
            return load_pretrained(folder)


def boosted(data: Data, model: str, seed: int) -> tuple[dict[str, Array], dict[str, Any]]:
    import lightgbm

    dataset = data.plain
    columns = [dataset.samples.dense]
    if model.endswith("all scalars"):
        columns = [data.matched.samples.dense]
    if "text" in model:
        columns.append(data.matched.samples.dense[:, len(NAMES) : len(NAMES) + len(SIMILAR)])
    if "ids" in model:
        columns.append(data.ids)
    x, y = np.hstack(columns), dataset.labels
    training, valid, test = (dataset.of(part) for part in (TRAIN, VALID, TEST))
    fitted = lightgbm.train(
        BOOSTING | {"seed": seed},
        lightgbm.Dataset(x[training], y[training]),
        ROUNDS,
        valid_sets=[lightgbm.Dataset(x[valid], y[valid])],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    scores = {name: np.asarray(fitted.predict(x[part])) for name, part in (("valid", valid), ("test", test))}
    return scores, {"rounds": fitted.best_iteration}


def learnt(
    data: Data, model: str, seed: int, *, quick: bool, lr: float | None
) -> tuple[dict[str, Array], dict[str, Any]]:
    dataset = data.matched if model.endswith("match") else data.plain
    held: Pretrained | None = None
    if model.startswith("DIN"):
        config: DinConfig | Srp4CtrConfig = DinConfig(dense_path=True)
        settings = DIN
    else:
        held = data.pretrained
        config, settings = ablations(held.config.encoder, pack=PACK, pretrained=held.id, **SRP_MORE)["full"], SRP
    training = dataset.of(TRAIN)
    suited = suited_epochs(kind_of(config).epochs, len(training))
    settings = msgspec.structs.replace(settings, seed=seed, lr=lr or settings.lr, epochs=1 if quick else suited)
    torch.manual_seed(seed)
    fresh = build(dataset.spec, config)
    if isinstance(fresh, Srp4Ctr):
        take_over(fresh, dataset.spec, held)
    began, busy = time.perf_counter(), time.process_time()
    epochs = train(fresh, dataset.samples, dataset.labels, (training, dataset.of(VALID)), settings, report=say, say=say)
    rows = len(epochs) * len(training)
    noted = {
        "valid_curve": [round(epoch.auc, 5) for epoch in epochs],
        "rows_per_s": rows / (time.perf_counter() - began),
        "rows_per_cpu_s": rows / (time.process_time() - busy),
    }
    scores = {
        name: predict(fresh, dataset.samples, dataset.of(part)) for name, part in (("valid", VALID), ("test", TEST))
    }
    return scores, noted


def measure(dataset: Dataset, part: int, scores: Array) -> dict[str, float]:
    rows = dataset.of(part)
    labels, cold = dataset.labels[rows], dataset.slices["cold_items"][rows]
    return {
        "auc": metrics.auc(labels, scores),
        "gauc": metrics.gauc(labels, scores, dataset.log.user[dataset.rows[rows]]),
        "log_loss": metrics.log_loss(labels, scores),
        "cold_items": metrics.auc(labels[cold], scores[cold]),
        "warm_items": metrics.auc(labels[~cold], scores[~cold]),
    }


def report(chosen: Any, data: Data, results: Path, runs: list[tuple[str, int]]) -> None:
    models: dict[str, Any] = {}
    scores: dict[str, Array] = {}
    for model in dict.fromkeys(model for model, _ in runs):
        names = [run_name(chosen, *run) for run in runs if run[0] == model]
        lines = [
            json.loads((results / f"{name}.json").read_text()) for name in names if (results / f"{name}.json").exists()
        ]
        if not lines:
            continue
        models[model] = rounded({part: mean([line[part] for line in lines]) for part in ("valid", "test")}) | {
            "seeds": len(lines)
        }
        files = [data.work / "scores" / f"{name}.npz" for name in names]
        if all(file.exists() for file in files[: len(lines)]):
            scores[model] = np.stack([np.load(file)["test"] for file in files if file.exists()])
    pairs = {}
    if scores:
        test = data.plain.of(TEST)
        labels, users = data.plain.labels[test] > 0, data.plain.log.user[data.plain.rows[test]]
        for ours, others in (
            ("SRP4CTR + match", ("SRP4CTR", "LightGBM + text + ids", "LightGBM, all scalars")),
            ("DIN + match", ("DIN", "LightGBM + text + ids")),
            ("LightGBM, all scalars", ("LightGBM", "LightGBM + text + ids")),
        ):
            for other in others:
                if ours in scores and other in scores:
                    pairs[f"{ours} - {other}"] = rounded(bootstrap(labels, users, scores[ours], scores[other]))
    table(models)
    line = {
        "benchmark": "match",
        "command": f"python benchmarks/match.py --log {chosen.log} --split {chosen.split}"
        + (f" --until {chosen.until}" if chosen.until < 1 else "")
        + of_seeds(chosen.seeds)
        + " --year" * chosen.year
        + f" --encoder {chosen.encoder}" * bool(chosen.encoder)
        + " --quick" * chosen.quick,
        "models": models,
        "paired": pairs,
    }
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def mean(lines: list[dict[str, Any]]) -> dict[str, float]:
    return {key: float(np.mean([line[key] for line in lines])) for key in lines[0] if lines[0][key] is not None}


def table(models: dict[str, Any]) -> None:
    names = ("auc", "gauc", "log_loss", "cold_items", "warm_items")
    print(f"{'':26}{'valid':>8}" + "".join(f"{name:>12}" for name in names) + f"{'seeds':>7}")
    for model, own in models.items():
        cells = "".join(f"{own['test'].get(name, float('nan')):>12.4f}" for name in names)
        print(f"{model:26}{own['valid']['auc']:>8.4f}{cells}{own['seeds']:>7}")


def run_name(chosen: Any, model: str, seed: int) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    return f"{log_name(chosen)}-{chosen.split}-{plain}-s{seed}"


def log_name(chosen: Any) -> str:
    return chosen.log + ("" if chosen.until == 1 else f"-{round(100 * chosen.until)}")


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(own) for key, own in value.items()}
    if isinstance(value, float) and np.isnan(value):
        return None
    return round(value, 4 if abs(value) < 10 else 0) if isinstance(value, float) else value


def say(what: object) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
