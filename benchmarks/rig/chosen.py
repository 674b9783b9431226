"""What benchmarks share of their options: those over models of `match.py`, and those over variants on a planted log."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch


def run_chosen(chosen: argparse.Namespace, models: Sequence[str], finish: Callable[[argparse.Namespace], None]) -> None:
    """`finish` with these models where no others are named; with --quick in a folder that goes, and of one seed."""
    torch.set_num_threads(chosen.threads)
    chosen.only = "|".join(f"{model}/*" for model in models) if chosen.only == "*" else chosen.only
    if not chosen.quick:
        finish(chosen)
        return
    with tempfile.TemporaryDirectory() as folder:
        chosen.work, chosen.results, chosen.seeds = Path(folder), Path(folder) / "results", 1
        finish(chosen)


def planted_options(about: str | None, variants: Collection[str], logs: Collection[str] = ()) -> argparse.Namespace:
    """The options of a benchmark on planted logs, as they were given; `names` are the variants that are wanted.

    logs: those to choose from, the first where none is named.
    """
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if logs:
        options.add_argument("--log", choices=tuple(logs), default=next(iter(logs)))
        options.add_argument("--data", type=Path, default=Path("../shared/data"), help="of logs that are not made up")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--epochs", type=int, default=6)
    options.add_argument("--only", default=",".join(variants), help="some of the variants, with commas between")
    options.add_argument("--work", type=Path, help="a folder that keeps each variant's scores")
    options.add_argument("--save", type=Path)
    options.add_argument("--quick", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    chosen.names = chosen.only.split(",")
    if unknown := [name for name in chosen.names if name not in variants]:
        options.error(f"--only {unknown[0]}: the variants are {', '.join(variants)}")
    return chosen
