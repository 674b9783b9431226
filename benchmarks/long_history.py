"""Claim: what a user made of things long ago is found by keys, where a sequence and lifelong sums do not find it.

    python benchmarks/long_history.py [--log planted|ml-1m] [--models NAMES] [--seeds 3] [--users N] [--events N]
                                      [--data ../shared/data] [--work DIR] [--save FILE] [--report] [--quick]

`planted`: a generated log of 10,000 behaviours a user in which likes and dislikes of makers are told in the first 30 %
of the past and asked in the last 40 % (benchmarks/history/logs.py); the best possible AUC is known. `ml-1m`: a sample
of MovieLens-1M's users with 200 events and more, with directors, languages and certificates; nobody rates a film
twice there. Models: DIN over the newest 50 and 200, SRP4CTR with its lifelong sums (not pre-trained, of width 32),
the key-vector model, and DIN and SRP4CTR with keys; each is trained with every seed and selected on validation.
The AUC is the test part's; differences are paired, by the bootstrap over users (benchmarks/paired.py).

Cost: kv and SRP4CTR + keys in the service (`LiveScorer`, 100 candidates a request, one thread) for a user with 100,
1,000, 10,000 and 50,000 behaviours on the same 500 items, and kv's rows a second in training. `flat_50000_over_1000` is
the median scoring time at 50,000 behaviours over that at 1,000.

Finished runs are kept in --work and not made twice, so it can be stopped at any time and goes on. Prints one JSON line
with all logs that there are runs of. --quick: 12 users of 1,000 behaviours, one seed, one epoch, in a minute; it shows
that everything works, not who wins.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.history.costs import costs
from benchmarks.history.logs import Source, long_users, planted
from benchmarks.history.models import FORMS, labels_of, learn
from benchmarks.paired import bootstrap
from fusion.features.splits import TEST
from fusion.training.metrics import auc

PAIRS = (
    ("kv", "srp4ctr"), ("srp4ctr+keys", "srp4ctr"), ("kv", "din-200"), ("din-50+keys", "din-50"), ("din-200", "din-50"),
)  # fmt: skip
SIZES = (100, 1_000, 10_000, 50_000)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--log", choices=("planted", "ml-1m"), default="planted")
    options.add_argument("--models", default=",".join(FORMS))
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--users", type=int, help="default: 100 planted, 300 of ML-1M")
    options.add_argument("--events", type=int, default=10_000, help="of a planted user")
    options.add_argument("--samples", type=int, default=240, help="of a planted user")
    options.add_argument("--epochs", type=int, default=6)
    options.add_argument("--batch-size", type=int, default=256)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--work", type=Path, help="what was run; default: in the cache")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--save", type=Path)
    options.add_argument("--report", action="store_true", help="run nothing; the line of what there is")
    options.add_argument("--quick", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.quick:
        chosen.users, chosen.events, chosen.samples, chosen.seeds, chosen.epochs = 12, 1_000, 60, 1, 1
        chosen.log = "planted"
        with tempfile.TemporaryDirectory() as folder:
            run_all(chosen, Path(folder), (100, 1_000))
        return
    chosen.users = chosen.users or (100 if chosen.log == "planted" else 300)
    cache_folder = Path(os.environ.get("INTERESTREAM_CACHE", Path.home() / ".cache" / "interestream"))
    run_all(chosen, chosen.work or cache_folder / "long_history", SIZES)


def run_all(chosen: Any, work: Path, sizes: tuple[int, ...]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    setting = {key: getattr(chosen, key) for key in ("users", "events", "samples", "epochs", "batch_size")}
    if not chosen.report:
        source: Source | None = None
        for seed, name in product(range(chosen.seeds), chosen.models.split(",")):
            file = work / f"{chosen.log}-{name}-s{seed}.json"
            if file.exists():
                continue
            if source is None:
                source = source_of(chosen)
                keep(work / f"{chosen.log}.json", told(source) | {"setting": setting})
            say(f"{chosen.log}: {name}, seed {seed}")
            run = learn(source, name, seed, chosen.epochs, chosen.batch_size)
            run["scores"] = [round(float(score), 6) for score in run["scores"]]
            keep(file, run)
        if not (cost := work / "costs.json").exists():
            say("costs")
            keep(cost, costs(sizes))
    tables = {log: table for log in ("planted", "ml-1m") if (table := compared(work, log))}
    line: dict[str, Any] = {"benchmark": "long_history", "command": command_of(chosen, tables)} | tables
    if (work / "costs.json").exists():
        line |= json.loads((work / "costs.json").read_text())
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def source_of(chosen: Any) -> Source:
    if chosen.log == "planted":
        return planted(chosen.users, chosen.events, chosen.samples)
    return long_users(chosen.data, chosen.users)


def told(source: Source) -> dict[str, Any]:
    """What the test part is, and the best AUC that is possible where that is known."""
    test = source.part == TEST
    labels = labels_of(source)
    out = {
        "behaviors": int(source.log.size), "samples": len(source.rows), "keys": list(source.attributes),
        "labels": labels[test].tolist(), "users": source.log.user[source.rows][test].tolist(),
    }  # fmt: skip
    return out if source.truth is None else out | {"optimum": auc(labels[test], source.truth[test])}


def compared(work: Path, log: str) -> dict[str, Any] | None:
    """AUCs by model over the seeds that there are, and paired differences; None before the first run."""
    if not (work / f"{log}.json").exists():
        return None
    held = json.loads((work / f"{log}.json").read_text())
    labels, users = np.array(held.pop("labels")), np.array(held.pop("users"))
    runs = {
        name: [json.loads(file.read_text()) for file in sorted(work.glob(f"{log}-{name}-s*.json"))] for name in FORMS
    }
    scores = {name: np.array([run["scores"] for run in own]) for name, own in runs.items() if own}
    out = held | {"test_rows": len(labels), "test_users": len(np.unique(users))}
    out["auc"] = {
        name: {"mean": round(float(np.mean([auc(labels, one) for one in own])), 5),
               "seeds": [round(auc(labels, one), 5) for one in own],
               "train_s": round(float(np.mean([run["train_s"] for run in runs[name]])), 1)}
        for name, own in scores.items()
    }  # fmt: skip
    out["differences"] = {
        f"{ours} - {other}": bootstrap(labels == 1, users, scores[ours], scores[other])
        for ours, other in PAIRS
        if ours in scores and other in scores
    }
    return out


def command_of(chosen: Any, tables: dict[str, Any]) -> str:
    """One for each log, as it was run."""
    if chosen.quick:
        return "python benchmarks/long_history.py --quick"
    given = {
        log: " ".join(f"--{name.replace('_', '-')} {value}" for name, value in table["setting"].items())
        for log, table in tables.items()
    }
    return "; ".join(f"python benchmarks/long_history.py --log {log} {options}" for log, options in given.items())


def keep(file: Path, what: dict[str, Any]) -> None:
    """Whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(what) + "\n")
    partial.replace(file)


def say(what: object) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
