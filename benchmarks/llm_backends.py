"""Claim: the LLM in int8 (CTranslate2) writes more tokens a second than transformers, in less memory, and no fewer of
its texts are accepted and supported.

    python benchmarks/llm_backends.py [--quick] [--llm FOLDER] [--partitions 96] [--threads 1] [--save FILE]

Each backend writes the interests of the same partitions of ML-100K's longest users (fetched), as `interestream learn`
does, in a process of its own. Half of the partitions, then the other backend's half, in turns, so that other work on
the machine meets both. Tokens are completion tokens; seconds are of processor time, and of the clock. Prints one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.llm import STYLE, K, grow, longest
from interest.llm.cache import Usage
from interest.llm.int8 import Int8Model
from interest.llm.local import LocalModel
from interest.types import Outcome
from interest.write.backfill import learn
from interest.write.backlog import Plan
from streams.fetch.int8 import int8_weights
from streams.settings.load import default_llm
from streams.store.engine import open_store

BACKENDS = ("transformers", "int8")
TURNS = 2


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="12 partitions")
    options.add_argument("--llm", type=Path, default=default_llm())
    options.add_argument("--partitions", type=int, default=96)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--save", type=Path)
    options.add_argument("--one", nargs=2, metavar=("BACKEND", "TURN"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    partitions = 12 if chosen.quick else chosen.partitions
    if chosen.one:
        print(json.dumps(one(chosen.one[0], int(chosen.one[1]), chosen.llm, partitions)))
        return
    int8_weights(chosen.llm, say=lambda line: print(line, file=sys.stderr))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in BACKENDS}
    for turn in range(TURNS):
        for name in BACKENDS:
            runs[name].append(started(name, turn, chosen, partitions))
    found = {name: summed(turns) for name, turns in runs.items()}
    slow, quick = (found[name] for name in BACKENDS)
    line = {
        "benchmark": "llm_backends",
        "quick": chosen.quick,
        "partitions": partitions,
        "threads": chosen.threads,
        "int8_over_transformers_tokens_per_cpu_s": round(quick["tokens_per_cpu_s"] / slow["tokens_per_cpu_s"], 2),
        "int8_over_transformers_tokens_per_s": round(quick["tokens_per_s"] / slow["tokens_per_s"], 2),
        "int8_over_transformers_partitions_per_cpu_s": round(slow["cpu_s"] / quick["cpu_s"], 2),
        **found,
    }
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def started(name: str, turn: int, chosen: argparse.Namespace, partitions: int) -> dict[str, Any]:
    """One turn in a process of its own, so that its peak of memory is the backend's."""
    command = [sys.executable, __file__, "--one", name, str(turn), "--llm", str(chosen.llm)]
    environment = os.environ | {"OMP_NUM_THREADS": str(chosen.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    command += ["--quick"] if chosen.quick else ["--partitions", str(partitions)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    print(f"{name}, turn {turn + 1}: {done.stdout.strip()}", file=sys.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def one(name: str, turn: int, folder: Path, partitions: int) -> dict[str, Any]:
    """Counts, seconds and peak memory of one backend on one part of the partitions."""
    model = Int8Model(folder, int8_weights(folder, say=print)) if name == "int8" else LocalModel(folder)
    size = partitions // TURNS * K
    history = longest(partitions * K)[turn * size : (turn + 1) * size]
    with tempfile.TemporaryDirectory() as temporary:
        store = open_store(f"sqlite:///{temporary}/store.db")
        grow(store, history)
        cpu, clock = time.process_time(), time.perf_counter()
        done = learn(store, model, model=model.name, plan=Plan(style=STYLE))
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
        store.dispose()
    spent = sum(done.usage.values(), Usage())
    texts = done.summaries + done.shifts
    return {
        "model": model.name,
        "partitions": done.partitions,
        "calls": spent.calls,
        "prompt_tokens": spent.prompt_tokens,
        "tokens": spent.completion_tokens,
        "texts": sum(texts.values()),
        "accepted": texts[Outcome.OK] + texts[Outcome.TRIMMED],
        "claims": done.claims,
        "supported": done.supported,
        "cpu_s": cpu,
        "s": clock,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def summed(turns: list[dict[str, Any]]) -> dict[str, Any]:
    total = {key: sum(turn[key] for turn in turns) for key in turns[0] if key not in ("model", "peak_mb")}
    return {
        "model": turns[0]["model"],
        "partitions": total["partitions"],
        "calls": total["calls"],
        "tokens_per_s": round(total["tokens"] / total["s"], 1),
        "tokens_per_cpu_s": round(total["tokens"] / total["cpu_s"], 1),
        "cpu_s": round(total["cpu_s"], 1),
        "peak_mb": round(max(turn["peak_mb"] for turn in turns)),
        "accepted_share": round(total["accepted"] / total["texts"], 3),
        "supported_share": round(total["supported"] / max(total["claims"], 1), 3),
    }


if __name__ == "__main__":
    main()
