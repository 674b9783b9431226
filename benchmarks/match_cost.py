"""Claim: with match scalars DIN and SRP4CTR train at .7 of the rate without them, and score 100 candidates at .8.

    python benchmarks/match_cost.py [--data ../shared/data] [--turns 2] [--scorings 300] [--quick]
                                    [--save benchmarks/results/match_cost.json]

ml-latest-small in a store, items' vectors random ones 384 wide: what they say is nothing to the clock. In one process,
with and without match scalars in turns, each turn begun by the other one; the first turn only warms up. Processor time:

- training: rows/s of an epoch, dense path and validation left out (`epoch`); and of a whole `train` of as many epochs
  as suit the log, the reading of its log, the scalars and the dense path among it (`run`);
- scoring: 100 candidates of one user, whose side is held as in the service; users of 30 to 2,700 behaviours. Median.

Prints the turns and, last, one JSON line: the ratios are with match scalars to without, of medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from sqlalchemy import Connection, Engine, func, select

from benchmarks.match import DIN, HISTORY, PACK, SRP, SRP_MORE, TEXT
from benchmarks.rig.match_store import fill
from fusion.features.dataset import Dataset, DatasetConfig, read_dataset
from fusion.features.match.features import MatchSpec
from fusion.features.splits import TRAIN, VALID
from fusion.features.tasks import Task
from fusion.interests.item_vectors import encode_items, texts_without_vectors
from fusion.models.din import DinConfig
from fusion.models.protocol import ModelConfig
from fusion.models.registry import build, kind_of
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import ablations
from fusion.serving.live import LiveScorer
from fusion.training.artifact import Artifact, ArtifactConfig, versions
from fusion.training.train import TrainConfig, suited_epochs, train
from interest.store.tables import behaviors
from streams.store.engine import open_store
from streams.store.heads import read_head

WIDTH, CANDIDATES, USERS = 384, 100, 20
MATCH = MatchSpec(parts=("text", "places", "support"), encoder="random", template=TEXT)
SPECS: dict[str, MatchSpec | None] = {"without": None, "with": MATCH}
ENCODER = FgBertConfig(positions=HISTORY + PACK - 1)
MODELS: dict[str, tuple[ModelConfig, TrainConfig]] = {
    "DIN": (DinConfig(dense_path=True), DIN),
    "SRP4CTR": (ablations(ENCODER, pack=PACK, **SRP_MORE)["full"], SRP),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--turns", type=int, default=2)
    options.add_argument("--scorings", type=int, default=300, help="requests a turn")
    options.add_argument("--quick", action="store_true", help="60 users, one turn after the warming one")
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    chosen.log, chosen.until = "ml-small", 1.0
    torch.set_num_threads(1)
    turns, scorings = (1, 60) if chosen.quick else (chosen.turns, chosen.scorings)
    with tempfile.TemporaryDirectory() as folder:
        engine = open_store(f"sqlite:///{folder}/store.db")
        fill(engine, chosen)
        with engine.connect() as connection:
            texts = texts_without_vectors(connection, RandomVectors.id, TEXT)
        encode_items(engine, RandomVectors(), texts)
        found: dict[str, dict[str, list[dict[str, float]]]] = {name: {"without": [], "with": []} for name in MODELS}
        for turn in range(turns + 1):
            sides = list(SPECS) if turn % 2 else list(SPECS)[::-1]
            read = {side: timed_read(engine, SPECS[side]) for side in sides}
            for name in MODELS:
                fitted = {side: fit(name, *read[side]) for side in sides}
                scored = score(engine, {side: artifact for side, (artifact, _) in fitted.items()}, scorings)
                for side in sides:
                    own = fitted[side][1] | {"ms_100": scored[side]}
                    say(
                        f"turn {turn}, {name} {side}: " + ", ".join(f"{key} {value:,.2f}" for key, value in own.items())
                    )
                    if turn:
                        found[name][side].append(own)
        engine.dispose()
    line = {
        "benchmark": "match_cost",
        "command": "python benchmarks/match_cost.py" + " --quick" * chosen.quick,
        "rows": len(read["with"][0].of(TRAIN)),
        "turns": turns,
        **{name: ratios(own["without"], own["with"]) for name, own in found.items()},
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


class RandomVectors:
    """Vectors of texts, of length 1."""

    id = "random"

    def __call__(self, texts: list[str], /) -> Any:
        made = np.random.default_rng(len(texts[0])).normal(size=(len(texts), WIDTH))
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def ratios(without: list[dict[str, float]], with_: list[dict[str, float]]) -> dict[str, Any]:
    """With to without: rates of training, and the rate of scoring; and both sides' medians."""
    medians = [{key: statistics.median(turn[key] for turn in own) for key in own[0]} for own in (without, with_)]
    plain, matched = medians
    return {
        "training": round(matched["epoch_rows_per_s"] / plain["epoch_rows_per_s"], 2),
        "training_run": round(matched["run_rows_per_s"] / plain["run_rows_per_s"], 2),
        "scoring": round(plain["ms_100"] / matched["ms_100"], 2),
        "without": {key: round(value, 2) for key, value in plain.items()},
        "with": {key: round(value, 2) for key, value in matched.items()},
    }


def timed_read(engine: Engine, match: MatchSpec | None) -> tuple[Dataset, float]:
    config = DatasetConfig(tasks=(Task.parse("value>=4"),), split="user", history=HISTORY, match=match)
    began = time.process_time()
    with engine.connect() as connection:
        dataset = read_dataset(connection, config)
    return dataset, time.process_time() - began


def fit(name: str, dataset: Dataset, read_s: float) -> tuple[Artifact, dict[str, float]]:
    """An artifact, and rows/s of its epochs and of the whole run."""
    config, settings = MODELS[name]
    training, selecting = dataset.of(TRAIN), dataset.of(VALID)[:500]
    epochs = suited_epochs(kind_of(config).epochs, len(training))
    torch.manual_seed(0)
    model = build(dataset.spec, config)
    stamps: list[tuple[int, float]] = []
    began = time.process_time()
    train(
        model, dataset.samples, dataset.labels, (training, selecting), msgspec.structs.replace(settings, epochs=1),
        advance=lambda count: stamps.append((count, time.process_time())),
    )  # fmt: skip
    whole = time.process_time() - began
    epoch_s = stamps[-1][1] - stamps[0][1]  # from the end of its first batch to that of its last
    rows = sum(count for count, _ in stamps[1:])
    run_s = read_s + whole + (epochs - 1) * epoch_s * len(training) / rows
    made: ArtifactConfig[Any] = ArtifactConfig(
        kind=kind_of(config).name, model=config, training=settings, split="user", versions=versions()
    )
    space = None if dataset.samples.match is None else dataset.samples.match.space
    artifact = Artifact("a" * 16, model.eval(), dataset.spec, dataset.statistics, made, {}, space)
    return artifact, {"epoch_rows_per_s": rows / epoch_s, "run_rows_per_s": epochs * len(training) / run_s}


def score(engine: Engine, artifacts: dict[str, Artifact], times: int) -> dict[str, float]:
    """Median milliseconds of processor time of a request, by side, asked in turns."""
    known = list(next(iter(artifacts.values())).spec.items)
    offered = np.random.default_rng(0).choice(known, CANDIDATES, replace=False).tolist()
    scorers = {side: LiveScorer(artifact, read_head) for side, artifact in artifacts.items()}
    taken: dict[str, list[float]] = {side: [] for side in scorers}
    with engine.connect() as connection:
        users = users_of(connection)
        for user in users:
            for scorer in scorers.values():
                scorer.score(connection, user, offered)
        for number in range(times):
            for side, scorer in scorers.items():
                began = time.process_time()
                held = scorer.score(connection, users[number % len(users)], offered).held
                assert held
                taken[side].append(1000 * (time.process_time() - began))
    return {side: statistics.median(own) for side, own in taken.items()}


def users_of(connection: Connection) -> list[str]:
    """Users of every length of history."""
    size = func.count().label("size")
    query = select(behaviors.c.user_id).group_by(behaviors.c.user_id).order_by(size, behaviors.c.user_id)
    ordered = list(connection.scalars(query))
    return [ordered[int(place)] for place in np.linspace(0, len(ordered) - 1, min(USERS, len(ordered)))]


def say(what: object) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
