"""Claim: by GDOD several tasks in one model gain at least what they do by the best of its peers, and none loses.

    python benchmarks/multi_task.py [--model din|srp4ctr] [--log ml-small|ml-1m] [--users N] [--splits user,global]
                                    [--tasks 2,4] [--seeds 3] [--epochs 4] [--only PATTERNS] [--data ../shared/data]
                                    [--save FILE] [--quick]

A model over tasks of `interestream train MODEL --task ...`, without a dense path, the best of --epochs passes (the
reason is in tasks/runs.py): each task alone, all with the sum of their gradients, with GDOD (of gradients brought to
one length, which is the default; the paper's; of gradients as they are, with two ways out of a zero step) and with
torchjd's balancers. Alone is the same model on the same features, with that task's tower only.
The first two tasks are ratings of at least 4 and of at least 5; of four, ratings of at most 2 and of 3. Before that the
cosines of the tasks' gradients on the shared parameters are measured along a run by their sum; if no two tasks conflict
(cosines below 0 in most steps and on average), the last task is planted to: the contrary of "at least 4" for
items of the largest categories, three quarters of the samples, "at least 4" for the others. That is said.

A gain is a task's AUC over its own alone, minus 1; its mean over tasks is a setting's gain. The peer that is compared
is the one with the best mean gain on validation. Runs are kept in the folder of --results and not made twice, so the
benchmark can be stopped between runs and goes on. --quick: 150 users of ML-100K, one seed, one split, five balancers,
in a few minutes; it shows that everything works, not who wins. Prints a table and, last, one JSON line; `mean_gain` is
of the test part, its standard error that of the paired difference of GDOD and the peer over settings and seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks.rig.movielens import LOGS
from benchmarks.tasks.data import Data, alone, with_planted
from benchmarks.tasks.runs import EPOCHS, MODELS, learn, passes, probe
from fusion.features.dataset import Dataset
from fusion.features.tasks import parse_tasks
from fusion.training.balance import Balance

RESULTS = Path(__file__).parent / "results" / "multi_task"
RULES = {
    2: ("like=value>=4", "love=value>=5"),
    4: ("like=value>=4", "love=value>=5", "dislike=value<=2", "average=value=3"),
}
PLANTED = "planted=value>=4"  # its targets are made here
OURS: tuple[Balance, ...] = ("gdod", "gdod-pure", "gdod-pcgrad", "gdod-lengths")
PEERS: tuple[Balance, ...] = ("pcgrad", "cagrad", "mgda", "imtl-g", "aligned-mtl", "upgrad", "dualproj")
QUICK: tuple[Balance, ...] = ("sum", "gdod", "gdod-pure", "gdod-lengths", "pcgrad")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--log", choices=LOGS, default="ml-small")
    options.add_argument("--users", type=int, help="so many of the log's users, drawn by a hash of their ids")
    options.add_argument("--model", choices=MODELS, default="din")
    options.add_argument("--splits", default="user,global")
    options.add_argument("--tasks", default="2,4", help="how many: 2, 4 or both")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--epochs", type=int, default=EPOCHS, help="passes, of which the best is taken")
    options.add_argument("--only", default="*", help="patterns of split/tasks/balancer/seed, separated by |")
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--work", type=Path, help="the store; default: in the cache")
    options.add_argument("--results", type=Path, default=RESULTS)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--quick", action="store_true", help="150 users of ML-100K, one seed, one split; nothing kept")
    options.add_argument("--report", action="store_true", help="run nothing; the table of what there is")
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.quick:
        chosen.log, chosen.splits, chosen.seeds = "ml-100k", "user", 1
        with tempfile.TemporaryDirectory() as folder:
            run_all(chosen, Path(folder), Path(folder) / "results", QUICK)
        return
    cache_folder = Path(os.environ.get("INTERESTREAM_CACHE", Path.home() / ".cache" / "interestream"))
    run_all(chosen, chosen.work or cache_folder / "multi_task", chosen.results, ("sum", *OURS, *PEERS))


def run_all(chosen: Any, work: Path, results: Path, balancers: Sequence[Balance]) -> None:
    for folder in (work, results):
        folder.mkdir(parents=True, exist_ok=True)
    patterns = [pattern.strip() for pattern in chosen.only.split("|")]
    data, table = Data(chosen, work), dict[str, Any]()
    for part in chosen.splits.split(","):
        for many in map(int, chosen.tasks.split(",")):
            setting = Setting(data, results, part, many)
            names = (*(f"alone {task}" for task in setting.names), *balancers)
            for seed in range(chosen.seeds):
                for name in names:
                    if any(fnmatch(f"{part}/{many}/{name}/{seed}", pattern) for pattern in patterns):
                        setting.run(name, seed, report=chosen.report)
            table[f"{part}/{many}"] = setting.table(balancers, chosen.seeds)
    tell(chosen, table, balancers)


class Setting:
    """A split and a number of tasks: its samples, its runs, and what they came to."""

    def __init__(self, data: Data, results: Path, part: str, many: int) -> None:
        self.data, self.results, self.part, self.many = data, results, part, many
        self.model = data.chosen.model

    def file(self, name: str) -> Path:
        plain = name.replace(" ", "-").replace("/", "-")
        model = "" if self.model == "din" else f"{self.model}-"
        passes = "" if self.data.chosen.epochs == EPOCHS else f"-e{self.data.chosen.epochs}"
        return self.results / f"{model}{self.data.log}{passes}-{self.part}-{self.many}-{plain}.json"

    @cached_property
    def cosines(self) -> dict[str, Any]:
        """Of the tasks as they are given, and if none conflicts, of those with a planted one."""
        file = self.file("cosines")
        if not file.exists():
            found = probe(
                self.data.dataset(self.part, RULES[self.many]), model=self.model, quick=self.data.chosen.quick
            )
            planted = not found["conflicting"]
            told = {"natural": found, "planted": planted}
            if planted:
                told["with_planted"] = probe(self._with_planted, model=self.model, quick=self.data.chosen.quick)
            keep(file, told)
        held: dict[str, Any] = json.loads(file.read_text())
        return held

    @property
    def _planted(self) -> tuple[str, ...]:
        return (*RULES[self.many][:-1], PLANTED)

    @cached_property
    def dataset(self) -> Dataset:
        if not self.cosines["planted"]:
            return self.data.dataset(self.part, RULES[self.many])
        return self._with_planted

    @cached_property
    def _with_planted(self) -> Dataset:
        return with_planted(self.data.dataset(self.part, self._planted))

    @cached_property
    def names(self) -> list[str]:
        rules = self._planted if self.cosines["planted"] else RULES[self.many]
        return [task.name for task in parse_tasks(rules)]

    def run(self, name: str, seed: int, *, report: bool) -> None:
        file = self.file(f"{name}-s{seed}")
        if report or file.exists():
            return
        say(f"{self.part}, {self.many} tasks: {name}, seed {seed}")
        dataset, began = self.dataset, time.perf_counter()
        kind, _, task = name.partition(" ")
        if kind == "alone":
            line = learn(
                alone(dataset, self.names.index(task)),
                msgspec.UNSET,
                seed,
                model=self.model,
                epochs=self.data.chosen.epochs,
                quick=self.data.chosen.quick,
            )
        else:
            balance: Any = msgspec.UNSET if name == "sum" else name
            chosen = self.data.chosen
            line = learn(dataset, balance, seed, model=self.model, epochs=chosen.epochs, quick=chosen.quick)
        line["minutes"] = (time.perf_counter() - began) / 60
        keep(file, line)

    def held(self, name: str, seed: int) -> dict[str, Any] | None:
        file = self.file(f"{name}-s{seed}")
        return json.loads(file.read_text()) if file.exists() else None

    def table(self, balancers: Sequence[Balance], seeds: int) -> dict[str, Any]:
        """Mean AUCs by task, gains by seed, worst task, shares of steps; of the runs that there are."""
        out: dict[str, Any] = {"tasks": self.names, "cosines": self.cosines}
        own = [
            {
                part: {task: run[part][task] for task in self.names if (run := self.held(f"alone {task}", seed))}
                for part in ("valid", "test")
            }
            for seed in range(seeds)
        ]  # fmt: skip
        full = [seed for seed in range(seeds) if len(own[seed]["test"]) == len(self.names)]
        if full:
            out["alone"] = {task: mean([own[seed]["test"][task] for seed in full]) for task in self.names}
        for name in balancers:
            runs = {seed: held for seed in full if (held := self.held(name, seed)) is not None}
            if not runs:
                continue
            gains = {
                part: {
                    str(seed): mean([held[part][task] / own[seed][part][task] - 1 for task in self.names])
                    for seed, held in runs.items()
                }
                for part in ("valid", "test")
            }
            by_task = {task: mean([held["test"][task] for held in runs.values()]) for task in self.names}
            worst = min(by_task[task] - mean([own[seed]["test"][task] for seed in runs]) for task in self.names)
            shares = [held["training"] for held in runs.values() if "training" in held]
            out[name] = {"auc": by_task, "gain": gains, "worst_task": worst} | (
                {share: mean([one[share] for one in shares]) for share in ("conflict_share", "zero_share")}
                if shares
                else {}
            )
        cost = self.file("cost")
        if not cost.exists() and not self.data.chosen.report:
            keep(cost, passes(self.dataset, model=self.model))
        if cost.exists():
            out["backward_passes"] = json.loads(cost.read_text())
        return out


def tell(chosen: Any, table: dict[str, Any], balancers: Sequence[Balance]) -> None:
    peers = [name for name in balancers if name in PEERS]
    gains = {
        part: {
            name: {f"{place}/{seed}": gain for place, own in table.items() if name in own
                   for seed, gain in own[name]["gain"][part].items()}
            for name in balancers
        }
        for part in ("valid", "test")
    }  # fmt: skip
    whole = max((len(own) for own in gains["test"].values()), default=0)
    ready = [name for name in peers if whole and len(gains["valid"][name]) == whole]
    line: dict[str, Any] = {"benchmark": "multi_task", "command": command_of(chosen), "settings": table}
    if ready and len(gains["test"]["gdod"]) == whole:
        peer = max(ready, key=lambda name: mean(gains["valid"][name].values()))
        ours, theirs = gains["test"]["gdod"], gains["test"][peer]
        apart = np.array([ours[run] - theirs[run] for run in ours])
        error = float(apart.std(ddof=1) / len(apart) ** 0.5) if len(apart) > 1 else None
        line["mean_gain"] = {name: mean(own.values()) for name, own in gains["test"].items() if len(own) == whole} | {
            "best_peer": mean(theirs.values()), "best_peer_name": peer, "standard_error": error,
        }  # fmt: skip
        line["worst_task"] = {
            name: min(own[name]["worst_task"] for own in table.values()) for name in (*balancers, peer)
            if all(name in own for own in table.values())
        }  # fmt: skip
    for place, own in table.items():
        found = own["cosines"]
        still = found.get("with_planted", found["natural"])["conflicting"]
        say(
            f"{place} tasks: {', '.join(own['tasks'])}{' (the last is planted)' * found['planted']}; in conflict: "
            f"{'; '.join(still) or 'none'}"
        )
        for name in balancers:
            if name in own:
                cells = " ".join(f"{task} {auc:.4f}" for task, auc in own[name]["auc"].items())
                zero = f", zero {own[name]['zero_share']:.0%}" if "zero_share" in own[name] else ""
                say(f"  {name:12} {mean(own[name]['gain']['test'].values()):+.4f}  {cells}{zero}")
    line = rounded(line)
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def command_of(chosen: Any) -> str:
    if chosen.quick:
        return "python benchmarks/multi_task.py --quick"
    model = f" --model {chosen.model}" if chosen.model != "din" else ""
    users = f" --users {chosen.users}" if chosen.users else ""
    passes = f" --epochs {chosen.epochs}" if chosen.epochs != EPOCHS else ""
    return (
        f"python benchmarks/multi_task.py{model} --log {chosen.log}{users} --splits {chosen.splits} "
        f"--tasks {chosen.tasks} --seeds {chosen.seeds}{passes}" + f" --only '{chosen.only}'" * (chosen.only != "*")
    )


def keep(file: Path, what: dict[str, Any]) -> None:
    """Whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(rounded(what), indent=1) + "\n")
    partial.replace(file)


def mean(numbers: Any) -> float:
    return float(np.mean(list(numbers)))


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(own) for key, own in value.items()}
    if isinstance(value, list):
        return [rounded(own) for own in value]
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 5)
    return value


def say(what: object) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
