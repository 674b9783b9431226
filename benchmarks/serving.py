"""Claim: one process on one core scores 1,000 candidates in milliseconds over HTTP, however long the user's past.

    python benchmarks/serving.py [--quick] [--models srp4ctr,din] [--store URL] [--save FILE]

Fills a store (SQLite in a temporary folder, or an empty one that is named) with a user of 50,000 behaviours, one of 50
and forty of 100, starts `interestream serve` with an untrained model at history 50, pinned to one core, and asks it
over loopback HTTP with JSON from another; making requests and reading answers is not in the times. Untrained weights:
nothing here depends on them. For each model:

- ratio_to_model: a warm request of 1,000 candidates over the bare model call on the same tensors, medians;
- p99_ms_1000: of such requests; long_over_short: the long user's median over the short one's;
- p99_ms_cold: the first requests of users with 100 behaviours, 1,000 candidates;
- freshness_ms: from posting a behaviour to the end of a score that knows it, p99;
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
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import torch
from sqlalchemy import Engine

from benchmarks.rig.http_load import Load
from fusion.features.counts import ItemHistory, ItemStatistics, event_columns
from fusion.features.log import read_log
from fusion.features.samples import fit_samples
from fusion.features.tasks import Task
from fusion.models.din import DinConfig
from fusion.models.protocol import ModelConfig
from fusion.models.registry import build, kind_of
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4CtrConfig
from fusion.serving.live import LiveScorer
from fusion.training.artifact import ArtifactConfig, load_artifact, save_artifact, versions
from fusion.training.train import TrainConfig
from interest.store.sql import insert_new, item_row, read_items, read_users, writing
from interest.store.tables import items
from interest.types import Behavior, Item
from streams.store.engine import open_store
from streams.store.heads import read_head
from streams.ubsp.ingest import Ingest
from streams.ubsp.policy import Policy

ROOT = Path(__file__).resolve().parent.parent
CORES = sorted(os.sched_getaffinity(0))
HISTORY, ITEMS, CANDIDATES, DAY = 50, 4000, 1000, 86_400.0
LONG, SHORT, COLD = "long", "short", [f"cold{n}" for n in range(40)]
CATEGORIES = [f"category {n}" for n in range(18)]
CONFIGS: dict[str, ModelConfig] = {
    "srp4ctr": Srp4CtrConfig(encoder=FgBertConfig(positions=HISTORY), pack=1, lifelong=True),
    "din": DinConfig(),
}

NEW = itertools.count()  # behaviours posted so far: the models share a store, in which none may be a duplicate


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="100 requests a figure instead of 1,000")
    options.add_argument("--models", default="srp4ctr,din")
    options.add_argument("--store", help="an empty PostgreSQL database; default: SQLite in a temporary folder")
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    line: dict[str, Any] = {
        "benchmark": "serving",
        "command": "python benchmarks/serving.py" + " --quick" * chosen.quick,
        "history": HISTORY,
        "candidates": CANDIDATES,
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }
    with tempfile.TemporaryDirectory() as folder:
        url = chosen.store or f"sqlite:///{folder}/store.db"
        engine = open_store(url)
        fill(engine)
        for name in chosen.models.split(","):
            line[name] = measure(engine, url, Path(folder), name, 100 if chosen.quick else 1000)
            print(name, json.dumps(line[name]), file=sys.stderr, flush=True)
        engine.dispose()
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def measure(engine: Engine, url: str, folder: Path, name: str, requests: int) -> dict[str, Any]:
    artifact = folder / name
    make_artifact(engine, CONFIGS[name], artifact)
    bare = bare_model(engine, artifact, requests)
    offered = [str(i) for i in np.random.default_rng(1).permutation(ITEMS)[:CANDIDATES]]
    bodies = {user: msgspec.json.encode({"user_id": user, "item_ids": offered}) for user in (LONG, SHORT, *COLD)}
    with serving(url, artifact) as base:
        load = Load(base)

        def ask(user: str) -> float:
            answer, taken = load.post("/v1/score", bodies[user])
            assert len(msgspec.json.decode(answer)["scores"]) == CANDIDATES
            return taken

        cold = [ask(user) for user in COLD]
        ask(LONG), ask(SHORT)  # the first ones read the logs
        taken = [ask(user) for user in [LONG, SHORT] * requests]  # in turn: what else runs here slows both
        long, short = taken[::2], taken[1::2]
        fresh = freshness(load, bodies[SHORT], max(requests // 3, 30))
        page = load.get("/metrics")
        vs_naive = against_naive(lambda: ask(SHORT), bodies[SHORT], max(requests // 10, 20))
    held = {key: float(value) for key, value in (row.split(" ") for row in page.splitlines() if row.startswith("inter"))
            if "{" not in key}  # fmt: skip
    sides = held["interestream_serve_user_side_bytes"] / held["interestream_serve_user_sides"]
    return {
        "bare_model_ms": round(bare, 2),
        "ms_1000": round(float(np.median(short)), 2),
        "ratio_to_model": round(float(np.median(short)) / bare, 2),
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
    with served([sys.executable, "-m", "benchmarks.rig.naive_service", *sizes]) as base:
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
def bare_model(engine: Engine, folder: Path, repeat: int) -> float:
    """Median milliseconds of the model alone, on the tensors of a warm request: the user's state is there."""
    artifact = load_artifact(folder)
    scorer, model = LiveScorer(artifact, read_head), artifact.model
    handed: list[Callable[[], Any]] = []
    if hasattr(model, "score"):
        inner = model.score

        def spy(*given: Any) -> Any:
            handed.append(lambda: inner(*given))
            return inner(*given)

        model.score = spy
    else:
        hook = model.register_forward_pre_hook(lambda _, given: handed.append(lambda: model(*given)))
    offered = [str(i) for i in np.random.default_rng(1).permutation(ITEMS)[:CANDIDATES]]
    with engine.connect() as connection:
        scorer.score(connection, SHORT, offered)
    if not hasattr(model, "score"):
        hook.remove()
    calls = list(handed)  # DIN scores a request in parts

    def bare() -> None:
        for call in calls:
            call()

    bare()
    taken = []
    for _ in range(repeat):
        start = time.perf_counter()
        bare()
        taken.append(1000 * (time.perf_counter() - start))
    return float(np.median(taken))


def fill(engine: Engine) -> None:
    """The users' behaviours through the fold, as ingest writes them, and a catalogue."""
    rng = np.random.default_rng(0)
    book = [
        Item(item_id=str(i), title=f"Item {i}", categories=tuple(rng.choice(CATEGORIES, 2).tolist()))
        for i in range(ITEMS)
    ]
    with writing(engine) as connection:
        insert_new(connection, items, [item_row(item) for item in book])
    ingest = Ingest(engine, Policy(count=50))
    rows: list[Behavior] = []
    for user, many in ((LONG, 50_000), (SHORT, 50), *((cold, 100) for cold in COLD)):
        at = np.sort(rng.uniform(0, 800 * DAY, many))
        rows += [
            Behavior(user_id=user, item_id=str(item), action="rate", at=float(when), value=float(value))
            for item, when, value in zip(
                rng.integers(0, ITEMS, many).tolist(), at.tolist(), rng.integers(1, 6, many).tolist(), strict=True
            )
        ]
    position = ingest.position("log:benchmark")
    ingest.commit(ingest.fold(rows), "log:benchmark", position, len(rows), rejected=0)


def make_artifact(engine: Engine, config: ModelConfig, folder: Path) -> None:
    """An untrained model with the spec and the statistics of the store's log."""
    with engine.connect() as connection:
        log, catalogue, profiles = read_log(connection), read_items(connection), read_users(connection)
    rows = np.arange(0, log.size, 25)
    spec = fit_samples(
        log, rows, np.ones(log.size, bool), catalogue, profiles,
        tasks=(Task.parse("value>=4"),), history=HISTORY, min_history=5,
    ).spec  # fmt: skip
    torch.manual_seed(0)
    found = ItemHistory(log, event_columns(log, spec.label.labels(log), spec.scale)).snapshot()
    number = {item: i for i, item in enumerate(log.items)}
    order = np.array([number[item] for item in spec.items])
    statistics = ItemStatistics(found.total[order], found.recent[order], found.first_at[order])
    own: ArtifactConfig[Any] = ArtifactConfig(
        kind=kind_of(config).name, model=config, training=TrainConfig(), split="global", versions=versions()
    )
    save_artifact(folder, build(spec, config), spec, statistics, own, {})


def serving(url: str, artifact: Path) -> AbstractContextManager[str]:
    """`interestream serve` of an artifact."""
    return served([sys.executable, "-m", "streams", "serve", "--store", url, "--artifact", str(artifact)])


@contextmanager
def served(command: list[str]) -> Iterator[str]:
    """A service on one core, this process on the others; its address once it is ready."""
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
        yield base
    finally:
        os.sched_setaffinity(0, before)
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
