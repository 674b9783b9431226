"""Peak memory of training DIN and SRP4CTR, its pre-training included, on 196,186 behaviours, 86,537 items: bound 1.2 GB

    python benchmarks/training_memory.py [--quick] [--save FILE]

The commands are run as a user types them, each in a process of its own, on a made-up log of 2,000 users: histories of
3 to some 3,000 behaviours, items as popular as a film's rank makes it. A process's peak and processor time are what the
system says when it ends; 510 MB of each are `import torch`, of a build with CUDA. `rows_per_product` is speed as a
ratio: the rows that are trained on, start and validation included, in the processor time of one product of two 2,000 x
2,000 matrices, timed before and after. --quick trains one epoch of each.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
USERS, BEHAVIORS, ITEMS = 2_000, 196_186, 86_537
GENRES = [f"genre {number}" for number in range(19)]
MOST_MB = 1_200
# by job, its command and the command's default epochs
JOBS = {
    "din": (["train", "din", "--interest", "no"], 6),
    "pretrain": (["pretrain", "fgbert"], 20),
    "srp4ctr": (["train", "srp4ctr", "--interest", "no"], 4),
}


def write_log(folder: Path) -> None:
    """log.csv and items.csv; the same in every run."""
    rng = np.random.default_rng(0)
    size = np.clip(np.exp(rng.normal(3.6, 1.35, USERS)), 5, 6_000)
    size = np.maximum((size / size.sum() * BEHAVIORS).astype(int), 3)
    size[np.argmax(size)] += BEHAVIORS - size.sum()
    popular = 1 / (np.arange(ITEMS) + 30) ** 1.15
    user = np.repeat(np.arange(USERS), size)
    item = rng.permutation(ITEMS)[rng.choice(ITEMS, BEHAVIORS, p=popular / popular.sum())]
    value = np.clip(np.round(2 * (rng.normal(3.5, 1.0, BEHAVIORS) + (item % 19 - 9) * 0.05)) / 2, 0.5, 5.0)
    at = (rng.uniform(8.5e8, 1.69e9, USERS)[user] + rng.uniform(0, 3e6, BEHAVIORS)).astype(int)
    order = np.argsort(at, kind="stable")
    with (folder / "log.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["user_id", "item_id", "value", "timestamp"])
        out.writerows(zip(user[order], item[order], value[order], at[order], strict=True))
    with (folder / "items.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["item_id", "title", "categories"])
        for number in range(ITEMS):
            own = rng.choice(GENRES, rng.integers(1, 6), replace=False)
            out.writerow([number, f"Film {number} ({1920 + number % 100})", "|".join(own)])


def run(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Peak resident MB and processor seconds of one command; its process ends the benchmark if it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    say(f"interestream {' '.join(arguments)}")
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "streams", *arguments], cwd=folder, env=environment, stdout=output, stderr=output
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(f"interestream {' '.join(arguments)}: exit code {process.returncode}\n{output.read()[-2000:]}")
    return used.ru_maxrss / 1024, used.ru_utime + used.ru_stime


def product_s() -> float:
    """Processor seconds of a 2,000 x 2,000 product: the least of five."""
    matrix, times = np.ones((2_000, 2_000), np.float32), []
    for _ in range(5):
        began = time.process_time()
        matrix @ matrix
        times.append(time.process_time() - began)
    return min(times)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="one epoch of each")
    options.add_argument("--only", choices=list(JOBS), action="append", help="this job; may be repeated")
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    peaks: dict[str, float] = {}
    speeds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_log(folder)
        run(["replay", "log.csv", "--items", "items.csv", "--store", "sqlite:///s.db", "--no-llm"], folder)
        for name in chosen.only or JOBS:
            command, epochs = JOBS[name]
            epochs = 1 if chosen.quick else epochs
            more = ["--pretrained", "pretrain"] if name == "srp4ctr" and (folder / "pretrain").exists() else []
            before = product_s()
            store = ["--store", "sqlite:///s.db", "--epochs", str(epochs), "--out", name]
            peak, seconds = run([*command, *more, *store], folder)
            product = (before + product_s()) / 2
            peaks[name] = round(peak)
            speeds[name] = round(0.8 * BEHAVIORS * epochs * product / seconds, 1)  # 80 % are the training part
            say(f"{name}: {peaks[name]} MB, {seconds:.0f} s of processor time")
    line = {
        "benchmark": "training_memory",
        "quick": chosen.quick,
        "most_mb": max(peaks.values()),
        "holds": max(peaks.values()) < MOST_MB,
        "peak_mb": peaks,
        "rows_per_product": speeds,
    }
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
