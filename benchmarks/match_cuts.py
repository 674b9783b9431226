"""Claim: with its defaults SRP4CTR is above LightGBM on counts, text and ids wherever a sparse log is cut in time.

    python benchmarks/match_cuts.py [--log ml-small|ml-1m] [--only PATTERNS] [--seeds 3] [--data ../shared/data]
                                    [--save FILE] [--quick] [--report]

One cut of ml-latest-small in time has 74 test users, too few to say anything. Here the log ends after .6, .7, .8, .9
and all of its ratings in turn (`benchmarks/match.py --split global --until SHARE`, with its models and options): five
test parts, each later than the one before. Differences are the mean over the cuts, with users resampled: whoever is in
several test parts is in all of them or in none. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import copy
import json
from typing import Any, NamedTuple

import numpy as np

from benchmarks.match import Data, of_seeds, options_of, rounded, run_all, run_name
from benchmarks.paired import REPEATS, area
from benchmarks.rig.chosen import run_chosen
from fusion.features.log import Array
from fusion.features.splits import TEST

CUTS = (0.6, 0.7, 0.8, 0.9, 1.0)
MODELS = ("LightGBM + text + ids", "DIN + match", "SRP4CTR + match")
PAIRS = (("SRP4CTR + match", "LightGBM + text + ids"), ("DIN + match", "LightGBM + text + ids"))


class Cut(NamedTuple):
    """The test part of a log that ends early."""

    positive: Array  # (n,) bool
    users: Array  # (n,) of ids
    scores: dict[str, Array]  # (S, n) by model, of S seeds


def main() -> None:
    chosen = options_of(__doc__).parse_args()
    chosen.split = "global"
    run_chosen(chosen, MODELS, finish)


def finish(chosen: argparse.Namespace) -> None:
    save, chosen.save = chosen.save, None
    cuts = {}
    for until in CUTS:
        own = copy.copy(chosen)
        own.until = until
        run_all(own, own.work, own.results, own.seeds)
        cuts[until] = read_cut(own)
    line = {
        "benchmark": "match_cuts",
        "command": f"python benchmarks/match_cuts.py --log {chosen.log}"
        + of_seeds(chosen.seeds)
        + " --quick" * chosen.quick,
        "cuts": {str(until): told(cut) for until, cut in cuts.items()},
        "paired": {f"{ours} - {other}": difference(list(cuts.values()), ours, other) for ours, other in PAIRS},
    }
    print(json.dumps(line))
    if save:
        save.write_text(json.dumps(line, indent=1) + "\n")


def read_cut(chosen: argparse.Namespace) -> Cut:
    plain = Data(chosen, chosen.work).plain
    test = plain.of(TEST)
    scores = {}
    for model in MODELS:
        names = [run_name(chosen, model, seed) for seed in range(chosen.seeds)]
        files = [chosen.work / "scores" / f"{name}.npz" for name in names]
        found = [np.load(file)["test"] for file in files if file.exists()]
        if found:
            scores[model] = np.stack(found)
    users = np.asarray(plain.log.users)[plain.log.user[plain.rows[test]]]
    return Cut(plain.labels[test] > 0, users, scores)


def told(cut: Cut) -> dict[str, Any]:
    ones = np.ones(len(cut.users))
    auc = {model: mean_area(cut, model, ones) for model in cut.scores}
    seeds = {model: len(scores) for model, scores in cut.scores.items()}
    return {"rows": len(cut.users), "users": len(np.unique(cut.users)), "auc": rounded(auc), "seeds": seeds}


def mean_area(cut: Cut, model: str, weight: Array) -> float:
    """The mean over seeds of the AUC, its rows weighted."""
    orders = np.argsort(cut.scores[model], axis=1, kind="stable")
    return float(np.mean([area(cut.positive, order, weight) for order in orders]))


def difference(cuts: list[Cut], ours: str, other: str) -> dict[str, float] | None:
    """Mean over the cuts of `ours` - `other` in AUC, and its interval over users; None where a cut lacks a run."""
    if any(model not in cut.scores for cut in cuts for model in (ours, other)):
        return None
    rng = np.random.default_rng(0)
    everyone = np.unique(np.concatenate([cut.users for cut in cuts]))
    rows = [np.searchsorted(everyone, cut.users) for cut in cuts]
    gaps = []
    for _ in range(REPEATS):
        drawn = rng.multinomial(len(everyone), np.full(len(everyone), 1 / len(everyone))).astype(np.float64)
        each = [
            mean_area(cut, ours, drawn[row]) - mean_area(cut, other, drawn[row])
            for cut, row in zip(cuts, rows, strict=True)
        ]
        gaps.append(np.mean(each))
    low, high = np.quantile(gaps, [0.025, 0.975])
    plain = [
        mean_area(cut, ours, np.ones(len(cut.users))) - mean_area(cut, other, np.ones(len(cut.users))) for cut in cuts
    ]
    return {name: round(float(value), 5) for name, value in (("mean", np.mean(plain)), ("low", low), ("high", high))}


if __name__ == "__main__":
    main()
