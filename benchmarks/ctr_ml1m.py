"""Claim: on MovieLens-1M SRP4CTR's test AUC is at least 0.010 above the best peer's, on both splits.

    python benchmarks/ctr_ml1m.py [--only PATTERNS] [--data ../shared/data] [--seeds 3] [--quick]
                                  [--save benchmarks/results/ctr_ml1m.json]

Rows, splits and tails are those of `ml1m/protocol.py`, which says which data --data needs. A run is one model on one
split (global, user) with one history length (50, 200; 0: none) and one seed; its line is kept in
benchmarks/results/ctr_ml1m/ and not made twice, so the benchmark can be stopped anywhere, even inside a run, and goes
on. --only takes patterns of split/model/history/seed, such as 'global/SRP4CTR/50/*'. Selection sees only the validation
part. The differences to the best peer are paired over users (bootstrap). Prints a table of what there is and, last, one
JSON line. What a row of training costs SRP4CTR and a public model is compared in turns by ctr_throughput.py.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks.ctr_din import fill
from benchmarks.ml1m.protocol import SPLIT_COLUMN, read_rows
from benchmarks.ml1m.runs import (
    COUNTED,
    LEARNT,
    PEER,
    PEERS,
    PRETRAIN,
    PRETRAINED,
    TEXT,
    TOGETHER,
    TRAIN_SRP,
    VALUE_TASK,
    Data,
    Run,
    execute,
    say,
    settings_of,
    versions,
)
from benchmarks.paired import bootstrap
from fusion.features.dataset import DatasetConfig, read_dataset, read_labelled
from fusion.features.splits import TEST, TRAIN, VALID, Split
from fusion.features.tasks import Task
from streams.store.engine import open_store

RESULTS = Path(__file__).parent / "results" / "ctr_ml1m"
PUBLISHED = {  # FuxiCTR on the same rows with one seed, measured elsewhere; not run here
    "global": {"FuxiCTR PNN": 0.7966, "FuxiCTR DCNv2": 0.7971, "FuxiCTR DIN": 0.8034},
    "user": {"FuxiCTR PNN": 0.8250, "FuxiCTR DCNv2": 0.8255, "FuxiCTR DIN": 0.8272},
}
OURS = "SRP4CTR"
HISTORIES = (50, 200)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--only", default="*", help="patterns of split/model/history/seed, separated by |")
    options.add_argument("--work", type=Path, help="store, checkpoints and scores; default: in the cache")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument(
        "--peer-epochs", type=int, default=PEER["epochs"], help="of public models; a kept line says how many it had"
    )
    options.add_argument(
        "--quick", action="store_true", help="150 users, history 50, one seed, one epoch; nothing kept"
    )
    options.add_argument("--report", action="store_true", help="run nothing; the table of what there is")
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.quick:
        with tempfile.TemporaryDirectory() as folder:
            _run_all(chosen, Path(folder), Path(folder) / "results", histories=(50,), seeds=1)
        return
    cache = Path(os.environ.get("INTERESTREAM_CACHE", Path.home() / ".cache" / "interestream"))
    _run_all(chosen, chosen.work or cache / "ctr_ml1m", RESULTS, histories=HISTORIES, seeds=chosen.seeds)


def _run_all(chosen: Any, work: Path, results: Path, *, histories: tuple[int, ...], seeds: int) -> None:
    for folder in (work / "scores", results):
        folder.mkdir(parents=True, exist_ok=True)
    runs = [
        Run(split, model, history, seed)
        for split in SPLIT_COLUMN
        for history in (0, *histories)
        for model in _models(history, quick=chosen.quick)
        for seed in range(seeds if history else 1)
    ]
    patterns = [pattern.strip() for pattern in chosen.only.split("|")]
    wanted = [run for run in runs if any(fnmatch(run.key, pattern) for pattern in patterns)]
    if not wanted:
        sys.exit(f"--only {chosen.only}: no run is called so; for example: {runs[1].key}")
    waiting = [run for run in wanted if _line(results, run) is None]
    held: tuple[Split, int] | None = None
    data: Data | None = None
    for number, run in enumerate([] if chosen.report else waiting, 1):
        say(f"[{number}/{len(waiting)}] {run.key}")
        if data is None or held != (run.split, run.history or histories[0]):
            held, data = (run.split, run.history or histories[0]), None  # one dataset in memory at a time
            data = _data(chosen, work, *held)
        line, scores = execute(run, data)
        np.savez(work / "scores" / f"{run.file}.npz", **{part: own.astype(np.float32) for part, own in scores.items()})  # type: ignore[arg-type]
        if number == 1:  # later ones are built beside what the runs before have left in memory
            line["samples_peak_mb"] = data.peak_mb
        (results / f"{run.file}.json").write_text(json.dumps(_rounded(line), indent=1) + "\n")
        say(f"  validation AUC {line['valid']['auc']:.4f}, test AUC {line['test']['auc']:.4f}")
    _report(chosen, work, results, runs)


def _models(history: int, *, quick: bool) -> tuple[str, ...]:
    if not history:
        return COUNTED
    return (*LEARNT, TEXT) if history == min(HISTORIES) and not quick else LEARNT


def _line(results: Path, run: Run) -> dict[str, Any] | None:
    """What was kept of a run, unless the model's settings have changed since."""
    path = results / f"{run.file}.json"
    line: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return line if line is not None and line["settings"] == settings_of(run) else None


def _data(chosen: Any, work: Path, split: Split, history: int) -> Data:
    """The dataset of one split and history, through a store that is filled once; its rows are the protocol's."""
    rows = read_rows(chosen.data)
    if chosen.quick:
        rows = rows[rows["user_id"] % 40 == 0].reset_index(drop=True)
    path = work / "ml1m.db"
    if not path.exists():
        partial = work / "partial.db"
        for old in work.glob("partial.db*"):
            old.unlink()
        engine = open_store(f"sqlite:///{partial}")
        fill(engine, rows, chosen.data)
        engine.dispose()
        partial.replace(path)
    config = DatasetConfig(tasks=(Task.parse("value>=4"),), split=split, history=history)
    engine = open_store(f"sqlite:///{path}", create=False)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of filling the store
    with engine.connect() as connection:
        dataset = read_dataset(connection, config)
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        peak = int(found[1]) / 1024 if found else 0
        say(f"  samples built; peak memory {peak:,.0f} MB")
        read = read_labelled(connection, config)
    engine.dispose()
    eligible = rows[rows["eligible"]]
    if not (np.array_equal(np.flatnonzero(rows["eligible"]), dataset.rows)
            and np.array_equal(eligible["label"], dataset.labels)):  # fmt: skip
        sys.exit("the samples are not the protocol's rows")
    same_parts = np.array_equal(eligible[SPLIT_COLUMN[split]], np.array(["train", "valid", "test"])[dataset.part])
    if not (same_parts or chosen.quick):  # a subset of users is split by its own times
        sys.exit("the parts are not the protocol's")
    own = np.array([TRAIN, VALID, TEST])
    say(f"  rows: {', '.join(f'{int((dataset.part == part).sum()):,}' for part in own)}")
    users = dataset.log.user[dataset.rows[dataset.of(TEST)]]
    np.savez(work / "scores" / f"{split}.npz", labels=dataset.labels[dataset.of(TEST)], users=users)
    return Data(dataset, read, chosen.quick, work, round(peak), chosen.peer_epochs)


def _report(chosen: Any, work: Path, results: Path, runs: list[Run]) -> None:
    splits: dict[str, Any] = {}
    for split in SPLIT_COLUMN:
        models: dict[str, Any] = {}
        for history in sorted({run.history for run in runs}):
            for model in dict.fromkeys(run.model for run in runs if run.history == history):
                own = [run for run in runs if (run.split, run.model, run.history) == (split, model, history)]
                lines = [line for run in own if (line := _line(results, run)) is not None]
                if lines:
                    models[f"{model}, {history}" if history else model] = _mean(lines)
        if not models:
            continue
        for name, auc in ({} if chosen.quick else PUBLISHED[split]).items():
            models[name] = {"test": {"auc": auc}, "published": True}
        splits[split] = {"models": models} | _margins(split, models, work, results, runs)
        _table(split, splits[split])
    line = {
        "benchmark": "ctr_ml1m",
        "command": "python benchmarks/ctr_ml1m.py" + " --quick" * chosen.quick,
        "protocol": "ML-1M, rating >= 4, 80/10/10 by time (global) or inside users (user), at least 5 earlier events",
        "splits": splits,
        "settings": {
            "pretraining": msgspec.to_builtins(PRETRAIN) | {"history": PRETRAINED},
            "training": msgspec.to_builtins(TRAIN_SRP) | {"value_task": VALUE_TASK, "together": TOGETHER},
            "peers": PEER,
        },
        "threads": chosen.threads,
        "versions": versions(),
    }
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def _margins(split: str, models: dict[str, Any], work: Path, results: Path, runs: list[Run]) -> dict[str, Any]:
    """The best peer by test AUC, and how far SRP4CTR's best history (by validation AUC) is above it."""
    own = {name: m for name, m in models.items() if name.rsplit(",", 1)[0] == OURS}
    peers = {name: m for name, m in models.items() if m.get("published") or name.startswith((*PEERS, *COUNTED))}
    if not peers:
        return {"best_peer": None, "margin": None}
    best_peer = max(peers, key=lambda name: peers[name]["test"]["auc"])
    out: dict[str, Any] = {"best_peer": best_peer, "margin": None}
    if own:
        best = max(own, key=lambda name: own[name]["valid"]["auc"])
        out["margin"] = round(own[best]["test"]["auc"] - peers[best_peer]["test"]["auc"], 4)
        out["ours"] = best
        out["paired"] = {
            name: interval
            for name in models
            if name != best and (interval := _paired(split, best, name, work, results, runs)) is not None
        }
    return out


def _paired(split: str, ours: str, other: str, work: Path, results: Path, runs: list[Run]) -> dict[str, Any] | None:
    """Difference of test AUC over resampled users, each model by the mean of its seeds' AUC.

    Scores are in the work folder, which another machine lacks, so what was found is kept in paired.json, and holds as
    long as both models' settings do.
    """
    pair = []
    for name in (ours, other):
        model, _, history = name.rpartition(", ")
        key = (model, int(history)) if history.isdigit() else (name, 0)
        pair.append([r for r in runs if (r.split, r.model, r.history) == (split, *key) and _line(results, r)])
    if not all(pair):
        return None
    path, own = results / "paired.json", f"{split}: {ours} - {other}"
    kept = json.loads(path.read_text()) if path.exists() else {}
    settings = [settings_of(held[0]) for held in pair]
    files = [[work / "scores" / f"{run.file}.npz" for run in held] for held in pair]
    if not all(file.exists() for held in files for file in held):
        found: dict[str, Any] | None = kept.get(own)
        return found if found is not None and found["settings"] == settings else None
    held = np.load(work / "scores" / f"{split}.npz")
    scores = [np.stack([np.load(file)["test"] for file in own_files]) for own_files in files]
    kept[own] = bootstrap(held["labels"] > 0, held["users"], *scores) | {
        "seeds": [[run.seed for run in of_model] for of_model in pair],
        "settings": settings,
    }
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    return dict(kept[own])


def _mean(lines: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"seeds": len(lines)}
    for part in ("valid", "test"):
        out[part] = {
            key: float(np.mean([line[part][key] for line in lines]))
            for key, value in lines[0][part].items()
            if value is not None
        }
    out["test"]["auc_sd"] = float(np.std([line["test"]["auc"] for line in lines], ddof=min(1, len(lines) - 1)))
    for key in ("rows_per_s", "rows_per_cpu_s", "minutes", "parameters", "epochs", "samples_peak_mb"):
        if key in lines[0]:
            out[key] = float(np.mean([line[key] for line in lines if key in line]))
    return _rounded(out)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(own) for key, own in value.items()}
    if isinstance(value, float) and math.isnan(value):
        return None  # no rows of the kind: inside users nobody is cold
    return round(value, 4 if abs(value) < 10 else 0) if isinstance(value, float) else value


def _table(split: str, held: dict[str, Any]) -> None:
    names = ("auc", "gauc", "log_loss", "bulk_tail", "gap", "cold_items", "cold")
    print(f"\n{split:34}{'valid':>8}" + "".join(f"{name:>11}" for name in names) + f"{'rows/s':>9}{'seeds':>6}")
    for name, own in held["models"].items():
        cells = "".join(f"{own['test'][key]:>11.4f}" if key in own["test"] else f"{'-':>11}" for key in names)
        valid = f"{own['valid']['auc']:>8.4f}" if "valid" in own else f"{'-':>8}"
        rate = f"{own['rows_per_s']:>9,.0f}" if "rows_per_s" in own else f"{'-':>9}"
        print(f"{name:34}{valid}{cells}{rate}{own.get('seeds', '-'):>6}")
    print(f"best peer: {held['best_peer']}; margin of {held.get('ours', OURS)}: {held['margin']}")


if __name__ == "__main__":
    main()
