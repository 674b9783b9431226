"""Claim: with match scalars SRP4CTR is above LightGBM on counts, texts and ids, however rarely an item was rated.

    python benchmarks/match_rare.py [--log ml-small|ml-1m|ml-100k] [--split user|global] [--seeds 3] [--save FILE]
                                    [--quick]

AUC of the models of `benchmarks/match.py`, which it runs where a run is missing, by how often an item was rated in the
training part; validation beside test, since what is to mend it is chosen on the former. Differences are paired over
users (bootstrap). Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from benchmarks.match import Data, of_seeds, options_of, rounded, run_all, run_name
from benchmarks.paired import bootstrap
from benchmarks.rig.chosen import run_chosen
from fusion.features.log import Array
from fusion.features.splits import TEST, TRAIN, VALID, split
from fusion.training import metrics

MODELS = ("LightGBM", "LightGBM + text + ids", "LightGBM, all scalars", "SRP4CTR", "SRP4CTR + match")
OURS, OTHER = "SRP4CTR + match", "LightGBM + text + ids"
RARE = {  # ratings: from, below
    "0": (0, 1), "1 to 4": (1, 5), "5 to 19": (5, 20), "20 to 49": (20, 50), "50 and more": (50, 1 << 31),
    "fewer than 50": (0, 50),
}  # fmt: skip


def main() -> None:
    chosen = options_of(__doc__).parse_args()
    run_chosen(chosen, MODELS, finish)


def finish(chosen: argparse.Namespace) -> None:
    save, chosen.save = chosen.save, None
    run_all(chosen, chosen.work, chosen.results, chosen.seeds)
    data = Data(chosen, chosen.work)
    line = {
        "benchmark": "match_rare",
        "command": f"python benchmarks/match_rare.py --log {chosen.log} --split {chosen.split}"
        + of_seeds(chosen.seeds)
        + " --quick" * chosen.quick,
        **{name: told(chosen, data, name, part) for name, part in (("valid", VALID), ("test", TEST))},
    }
    print(json.dumps(line))
    if save:
        save.write_text(json.dumps(line, indent=1) + "\n")


def told(chosen: argparse.Namespace, data: Data, name: str, part: int) -> dict[str, Any]:
    """By how often an item was rated: rows, users, each model's AUC (the mean over seeds), and the difference."""
    plain, scores = data.plain, {}
    for model in MODELS:
        files = [chosen.work / "scores" / f"{run_name(chosen, model, seed)}.npz" for seed in range(chosen.seeds)]
        if all(file.exists() for file in files):
            scores[model] = np.stack([np.load(file)[name] for file in files])
    rows, log = plain.of(part), plain.log
    events, labels = plain.rows[rows], plain.labels[rows]
    times = np.bincount(log.item[split(log, chosen.split) == TRAIN], minlength=len(log.items))[log.item[events]]
    return {
        title: one_slice(labels, log.user[events], scores, (times >= least) & (times < below))
        for title, (least, below) in RARE.items()
    }


def one_slice(labels: Array, users: Array, scores: dict[str, Array], own: Array) -> dict[str, Any]:
    out: dict[str, Any] = {"rows": int(own.sum()), "users": len(np.unique(users[own]))}
    if len(np.unique(labels[own])) < 2:
        return out
    for model, each in scores.items():
        out[model] = rounded(float(np.mean([metrics.auc(labels[own], seed[own]) for seed in each])))
    if OURS in scores and OTHER in scores:
        ours, other = scores[OURS][:, own], scores[OTHER][:, own]
        out[f"{OURS} - {OTHER}"] = rounded(bootstrap(labels[own] > 0, users[own], ours, other))
    return out


if __name__ == "__main__":
    main()
