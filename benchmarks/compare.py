"""Whether a change made a benchmark slower: this checkout against another, in alternating pairs in one run.

    python benchmarks/compare.py --other DIR [--pairs 5] [--only replay] [--quick]

Each pair runs a benchmark in the other checkout and then in this one, so that a slow minute of the machine slows both.
`cpu_s` is the processor time of the whole benchmark, which other processes on the machine change least.
Prints a line a pair and, last, one JSON line: by benchmark and figure the ratios this / other and their median, above 1
where this checkout is better. --quick does one pair of the shortest benchmark. Without --other the checkout is compared
with itself: that shows how noisy the machine is.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# by benchmark, the figures of its JSON line that are compared, and whether more is better
FIGURES: dict[str, dict[str, bool]] = {
    "replay": {"events_per_s": True, "ratio_to_decode": True, "cpu_s": False},
    "folding": {"ratio_n100": True, "ms_per_candidate.100": False, "cpu_s": False},
    "ingest": {"events_per_s": True, "vs_getmany": True, "cpu_us.sqlite_uniform": False, "cpu_s": False},
}


def measure(name: str, checkout: Path) -> dict[str, Any]:
    """The JSON line that a benchmark of a checkout prints, and with it its processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", "--quick"],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        sys.exit(f"{checkout}/benchmarks/{name}.py --quick: exit code {run.returncode}\n{run.stderr[-2000:]}")
    line: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return line | {"cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def figure_of(line: Any, path: str) -> float:
    """The figure of a line that a path such as cpu_us.sqlite_uniform names."""
    for key in path.split("."):
        line = line[key]
    return float(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, default=ROOT, help="the checkout to compare with; default: this one")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", choices=list(FIGURES), action="append", help="this benchmark; may be repeated")
    parser.add_argument("--quick", action="store_true", help="one pair of `replay`")
    chosen = parser.parse_args()
    names = ["replay"] if chosen.quick else chosen.only or list(FIGURES)
    ratios: dict[str, dict[str, list[float]]] = {name: {figure: [] for figure in FIGURES[name]} for name in names}
    for name in names:
        for number in range(1, (1 if chosen.quick else chosen.pairs) + 1):
            other, this = measure(name, chosen.other.resolve()), measure(name, ROOT)
            for figure, more_is_better in FIGURES[name].items():
                ratio = figure_of(this, figure) / figure_of(other, figure)
                ratios[name][figure].append(round(ratio if more_is_better else 1 / ratio, 3))
            print(
                f"{name}, pair {number}: { ({f: r[-1] for f, r in ratios[name].items()}) }", file=sys.stderr, flush=True
            )
    medians = {n: {f: round(statistics.median(found), 3) for f, found in own.items()} for n, own in ratios.items()}
    print(json.dumps({"benchmark": "compare", "median": medians, "ratios": ratios}))


if __name__ == "__main__":
    main()
