"""Claim: one process on one core scores 1,000 candidates in milliseconds over HTTP, however long the user's past.

    python benchmarks/serving.py [--quick] [--models srp4ctr,din,kv,bahe] [--match] [--postgres | --store URL]
        [--llm FOLDER] [--save FILE]

Fills a store (SQLite in a temporary folder, a PostgreSQL server of its own, or an empty store that is named) with a
user of 50,000 behaviours, one of 50 and forty of 100, starts `interestream serve` with an untrained model at history
50, pinned to one core, and asks it over loopback HTTP with JSON from another; making requests and reading answers is
not in the times. Untrained weights: nothing here depends on them. `--match` gives the models match scalars over items'
texts (random vectors, 384 wide) and places. `bahe` runs the upper half of an LLM (SmolLM2-135M, or `--llm`), whose
lower half has made the vectors of all texts that the requests read before. For each model:

- ratio_to_model: a warm request of 1,000 candidates over the bare model call on the same tensors, medians. The bare
  call has the user's state and the items' vectors, and is timed on the service's core, before the requests and after;
- ratio_to_kept: the same over what the service calls, where it also keeps a user's products with the weights (SRP4CTR);
- p99_ms_1000: of such requests; long_over_short: the long user's median over the short one's;
- p99_ms_cold: the first requests of users with 100 behaviours, 1,000 candidates;
- freshness_ms: from posting a behaviour to the end of a score that knows it, p99; of `bahe` its text goes through the
  LLM's lower half in between, which the service loads for the first;
- cpu_ms: processor time of the service for a warm request, for who measures beside other work;
- kb_per_user: of users' sides held, with their encoded states;
- vs_naive: requests/s over those of a plain FastAPI handler around torch-rechub's DIN (rig/naive_service.py), which has
  a history of the same length in memory and encodes it beside each candidate; both asked in turn.

Prints one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import torch
from sqlalchemy import Engine

from benchmarks.rig.bare_calls import bare_calls
from benchmarks.rig.http_load import Load
from benchmarks.rig.servers import postgres
from benchmarks.rig.serving_site import (
    CANDIDATES,
    CATEGORIES,
    COLD,
    DAY,
    HISTORY,
    ITEMS,
    LONG,
    MODELS,
    OFFERED,
    SHORT,
    config_of,
    fill,
    make_artifact,
)
from streams.settings.load import default_llm
from streams.store.engine import open_store

ROOT = Path(__file__).resolve().parent.parent
CORES = sorted(os.sched_getaffinity(0))

NEW = itertools.count()  # behaviours posted so far: the models share a store, in which none may be a duplicate


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="100 requests a figure instead of 1,000")
    options.add_argument("--models", default="srp4ctr,din", help=f"of {', '.join(MODELS)}, with commas")
    options.add_argument("--match", action="store_true", help="with match scalars")
    where = options.add_mutually_exclusive_group()
    where.add_argument("--store", help="the URL of an empty store; default: SQLite in a temporary folder")
    where.add_argument("--postgres", action="store_true", help="a PostgreSQL server of the benchmark's own")
    options.add_argument("--llm", type=Path, default=default_llm(), help="of bahe")
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    names = chosen.models.split(",")
    if unknown := set(names) - set(MODELS):
        options.error(f"--models {', '.join(sorted(unknown))}: there are {', '.join(MODELS)}")
    torch.set_num_threads(1)
    line: dict[str, Any] = {
        "benchmark": "serving",
        "command": " ".join(["python benchmarks/serving.py", *sys.argv[1:]]),
        "match": chosen.match,
        "history": HISTORY,
        "candidates": CANDIDATES,
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }
    with tempfile.TemporaryDirectory() as folder, store_of(chosen, folder) as url:
        engine = open_store(url)
        line["store"] = engine.dialect.name
        fill(engine)
        for name in names:
            artifact = Path(folder) / name
            make_artifact(engine, config_of(name, chosen.llm), artifact, match=chosen.match)
            line[name] = measure(engine, url, artifact, 100 if chosen.quick else 1000)
            print(name, json.dumps(line[name]), file=sys.stderr, flush=True)
        engine.dispose()
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def store_of(chosen: argparse.Namespace, folder: str) -> AbstractContextManager[str]:
    """The URL of an empty store, there for as long as the context is."""
    return postgres() if chosen.postgres else nullcontext(chosen.store or f"sqlite:///{folder}/store.db")


def measure(engine: Engine, url: str, artifact: Path, requests: int) -> dict[str, Any]:
    calls = bare_calls(engine, artifact)
    bodies = {user: msgspec.json.encode({"user_id": user, "item_ids": OFFERED}) for user in (LONG, SHORT, *COLD)}
    with serving(url, artifact) as (base, process):
        load = Load(base)

        def ask(user: str) -> float:
            answer, taken = load.post("/v1/score", bodies[user])
            assert len(msgspec.json.decode(answer)["scores"]) == CANDIDATES
            return taken

        cold = [ask(user) for user in COLD]
        ask(LONG), ask(SHORT)  # the first ones read the logs
        alone = [timed(call, requests) for call in calls]
        used = processor_ms(process)
        taken = [ask(user) for user in [LONG, SHORT] * requests]  # in turn: what else runs here slows both
        used = processor_ms(process) - used
        bare, kept = (np.median([*before, *timed(call, requests)]) for call, before in zip(calls, alone, strict=True))
        long, short = taken[::2], taken[1::2]
        fresh = freshness(load, bodies[SHORT], max(requests // 3, 30))
        page = load.get("/metrics")
        vs_naive = against_naive(lambda: ask(SHORT), bodies[SHORT], max(requests // 10, 20))
    held = {key: float(value) for key, value in (row.split(" ") for row in page.splitlines() if row.startswith("inter"))
            if "{" not in key}  # fmt: skip
    sides = held["interestream_serve_user_side_bytes"] / held["interestream_serve_user_sides"]
    return {
        "bare_model_ms": round(float(bare), 2),
        "ms_1000": round(float(np.median(short)), 2),
        "ratio_to_model": round(float(np.median(short) / bare), 2),
        "ratio_to_kept": round(float(np.median(short) / kept), 2),
        "cpu_ms": round(used / len(taken), 2),
        "p99_ms_1000": round(float(np.quantile(short, 0.99)), 2),
        "long_over_short": round(float(np.median(long) / np.median(short)), 2),
        "p99_ms_cold": round(float(np.quantile(cold, 0.99)), 2),
        "freshness_ms": round(float(np.quantile(fresh, 0.99)), 2),
        "kb_per_user": round(sides / 1000, 1),
        "vs_naive": round(vs_naive, 2),
    }


def against_naive(ask: Callable[[], float], body: bytes, requests: int) -> float:
    """The naive service's median time over ours, for the short user."""
    sizes = ["--items", str(ITEMS), "--categories", str(len(CATEGORIES)), "--history", str(HISTORY)]
    with served([sys.executable, "-m", "benchmarks.rig.naive_service", *sizes]) as (base, _):
        load = Load(base)

        def naive() -> float:
            answer, taken = load.post("/score", body)
            assert len(msgspec.json.decode(answer)["scores"]) == CANDIDATES
            return taken

        naive()
        theirs, ours = np.median([(naive(), ask()) for _ in range(requests)], axis=0)
    return float(theirs / ours)


def freshness(load: Load, body: bytes, times: int) -> list[float]:
    """Milliseconds from posting a behaviour to the end of a score that knows it."""
    out = []
    for n in itertools.islice(NEW, times):
        row = {"user_id": SHORT, "item_id": str(n % 1000), "action": "rate", "at": 900 * DAY + n, "value": 4.0}
        written, posted = load.post("/v1/behaviors", msgspec.json.encode(row))
        answer, scored = load.post("/v1/score", body)
        assert msgspec.json.decode(written)["accepted"] == 1
        assert msgspec.json.decode(answer)["newest_seq"] >= 50 + n
        out.append(posted + scored)
    return out


@torch.no_grad()
def timed(call: Callable[[], Any], repeat: int) -> list[float]:
    """Milliseconds of each call, on the service's core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES[:1])
    try:
        taken = []
        for number in range(repeat + 3):
            start = time.perf_counter()
            call()
            if number >= 3:
                taken.append(1000 * (time.perf_counter() - start))
        return taken
    finally:
        os.sched_setaffinity(0, before)


def processor_ms(process: int) -> float:
    """Milliseconds that a process has been given the processor, all its threads together."""
    folder = Path(f"/proc/{process}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in folder.iterdir()) / 1e6


def serving(url: str, artifact: Path) -> AbstractContextManager[tuple[str, int]]:
    """`interestream serve` of an artifact."""
    return served([sys.executable, "-m", "streams", "serve", "--store", url, "--artifact", str(artifact)])


@contextmanager
def served(command: list[str]) -> Iterator[tuple[str, int]]:
    """A service on one core, this process on the others; its address once it is ready, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = os.sched_getaffinity(0)
    own = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--port", str(port)], env=own, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        os.sched_setaffinity(process.pid, CORES[:1])
        os.sched_setaffinity(0, CORES[1:] or CORES)
        base = f"http://127.0.0.1:{port}"
        for _ in range(1200):
            time.sleep(0.1)
            try:
                if httpx.get(f"{base}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None, "the service has ended"
        yield base, process.pid
    finally:
        os.sched_setaffinity(0, before)
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
