"""Claim: SRP4CTR trains on at least twice as many rows a second as a public BST, at a history of 50.

    python benchmarks/ctr_throughput.py [--data ../shared/data] [--users 80] [--turns 2] [--quick]
                                        [--save benchmarks/results/ctr_throughput.json]

ML-1M's rows of some users, drawn at random, in one process: SRP4CTR with all its parts and torch-rechub's BST, both as
in ctr_ml1m.py, train on the very same rows in turns, so that what else runs on the machine falls on both. A turn is an
epoch, gathering included, validation left out. The first turn of each only warms up. Prints the rates of every turn
and, last, one JSON line; its ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks.clock import Clock
from benchmarks.ctr_din import load
from benchmarks.ml1m.peers import Peer
from benchmarks.ml1m.protocol import read_rows
from benchmarks.ml1m.runs import FORMS, PEER, TOGETHER, TRAIN_SRP, VALUE_TASK, say, versions
from fusion.features.dataset import Dataset
from fusion.features.splits import TRAIN, VALID
from fusion.models.registry import build
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import ablations
from fusion.training.train import train

HISTORY = 50
SELECTING = 500  # validation rows: they are not timed, but both want some
OURS, PUBLIC = "SRP4CTR", "torch-rechub BST"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--users", type=int, default=80)
    options.add_argument("--turns", type=int, default=2)
    options.add_argument("--quick", action="store_true", help="40 users, one turn after the warming one")
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    users, turns = (40, 1) if chosen.quick else (chosen.users, chosen.turns)
    dataset = sample(chosen.data, users)
    rows = len(dataset.of(TRAIN))
    say(f"{rows:,} training rows of {users} users")
    found: dict[str, list[dict[str, float]]] = {OURS: [], PUBLIC: []}
    for turn in range(turns + 1):
        for name, measure in ((OURS, ours), (PUBLIC, public)):
            own = measure(dataset)
            say(f"turn {turn}, {name}: " + ", ".join(f"{key} {value:,.0f}" for key, value in own.items()))
            if turn:
                found[name].append(own)
    rates = {name: {key: statistics.median(t[key] for t in own) for key in own[0]} for name, own in found.items()}
    line = {
        "benchmark": "ctr_throughput",
        "command": "python benchmarks/ctr_throughput.py" + " --quick" * chosen.quick,
        "history": HISTORY,
        "rows": rows,
        "turns": turns,
        **{f"ratio_{key}": round(rates[OURS][key] / rates[PUBLIC][key], 2) for key in rates[OURS]},
        "rates": {name: {key: round(value) for key, value in own.items()} for name, own in rates.items()},
        "batch": {OURS: TRAIN_SRP.batch_size, PUBLIC: 2048},
        "versions": versions(),
    }
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def sample(data: Path, users: int) -> Dataset:
    """Some users' rows, histories whole; of the validation part only as many as a selection needs."""
    rows = read_rows(data)
    drawn = np.random.default_rng(0).permutation(rows["user_id"].unique())[:users]
    dataset = load(rows[rows["user_id"].isin(drawn)].reset_index(drop=True), data)
    part = dataset.part.copy()
    part[part != TRAIN] = VALID
    part[dataset.of(VALID)[SELECTING:]] = -1
    return dataclasses.replace(dataset, part=part)


def ours(dataset: Dataset) -> dict[str, float]:
    """One epoch of SRP4CTR. Where its encoder's weights came from is nothing to the clock."""
    encoder = FgBertConfig(positions=HISTORY + TOGETHER[HISTORY] - 1)
    config = ablations(encoder, pack=TOGETHER[HISTORY], value_task=VALUE_TASK, lifelong=True)[FORMS[OURS]]
    torch.manual_seed(0)
    model = build(dataset.spec, config)
    clock = Clock(len(dataset.of(TRAIN)), lambda _: None)
    train(
        model, dataset.samples, dataset.labels, (dataset.of(TRAIN), dataset.of(VALID)),
        msgspec.structs.replace(TRAIN_SRP, epochs=1), advance=clock.advance, report=clock.report,
    )  # fmt: skip
    return {"rows_per_s": clock.seen / clock.wall_s, "rows_per_cpu_s": clock.seen / clock.busy_s}


def public(dataset: Dataset) -> dict[str, float]:
    """One epoch of BST."""
    peer = Peer(PUBLIC.removeprefix("torch-rechub "), dataset, 0)
    settings: dict[str, Any] = PEER | {"epochs": 1}
    with tempfile.TemporaryDirectory() as folder:
        noted = peer.fit(**settings, kept=Path(folder) / "bst.pt", say=lambda _: None)
    return {key: noted[key] for key in ("rows_per_s", "rows_per_cpu_s")}


if __name__ == "__main__":
    main()
