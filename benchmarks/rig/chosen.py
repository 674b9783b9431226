"""The options of a benchmark over models of `match.py`, carried out."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
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
