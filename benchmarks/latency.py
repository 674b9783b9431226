"""Claim: from the moment a behaviour is produced until the partition that it closes can be read in the store, 99 of 100
take under a second, at half the greatest rate of one worker.

    python benchmarks/latency.py [--quick] [--rate EVENTS_PER_S] [--save benchmarks/results/latency.json]

One Kafka, one worker (`interestream agent --stages ingest`), on SQLite and on PostgreSQL. The greatest rate of each is
measured first, over a topic filled beforehand with the same behaviours (or told: `--rate`); then they are produced at
half of it. Some of those that close a partition are watched: the time runs from when the producer has the message in
hand until another connection, which looks every 10 ms, finds the partition.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, select

from benchmarks.rig.behaviors import START, Paced, preload
from benchmarks.rig.servers import consumed, fresh_store, installation, kafka, postgres
from benchmarks.rig.worker import rate, waited_for, worker
from deploy.kafka.node import Node
from interest.store.tables import partitions

COUNT = 50  # behaviours that close a partition, as the settings have it
WATCHED_PER_S = 100  # closing behaviours looked for in a second: enough for a p99, too few to burden the store
WARM_S = 5.0  # not counted: the worker meets its users for the first time
USERS = 4_000  # few enough that partitions close all the time
FIRST = 1_000  # messages produced before the pace begins, so that the worker has started and joined its group


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="15 seconds on each store instead of 60")
    options.add_argument("--rate", type=float, help="the greatest rate, where it is known")
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    stores: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made, kafka(Path(made)) as node, postgres() as server:
        for kind in ("sqlite", "postgresql"):
            rows = 400_000 if chosen.quick else 1_600_000  # about as many as are produced afterwards
            greatest = chosen.rate or ceiling(node, kind, server, Path(made), rows)
            store = fresh_store(kind, Path(made), server)
            waits = watched(node, kind, store, greatest / 2, 15.0 if chosen.quick else 60.0, Path(made))
            stores[kind] = {
                "p50_ms": round(1000 * float(np.quantile(waits, 0.5))),
                "p99_ms": round(1000 * float(np.quantile(waits, 0.99))),
                "most_ms": round(1000 * max(waits)),
                "watched": len(waits),
                "greatest_rate": round(greatest),
                "events_per_s": round(greatest / 2),
            }
            say(f"{kind}: {stores[kind]}")
    worst = max(stores.values(), key=lambda one: one["p99_ms"])
    line = {"benchmark": "latency", "quick": chosen.quick, "p50_ms": worst["p50_ms"], "p99_ms": worst["p99_ms"]}
    line |= {"stores": stores, "cpus": os.cpu_count()}
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def ceiling(node: Node, kind: str, server: str, folder: Path, rows: int) -> float:
    """The greatest rate of one worker over the same behaviours, in a topic that was filled beforehand."""
    settings = installation(node, f"ceiling-{kind}.")
    topic = f"{settings.prefix}behaviors"
    preload(node.bootstrap, topic, traffic(rows)[0])
    store, log = fresh_store(kind, folder, server), folder / f"ceiling-{kind}.log"
    with worker(settings, store, log) as process:
        engine = waited_for(store, log, process)
        greatest = rate(process, engine, topic, rows, log).per_s
        engine.dispose()
    say(f"{kind}: {greatest:,.0f}/s at most")
    return greatest


def watched(node: Node, kind: str, store: str, per_s: float, seconds: float, folder: Path) -> list[float]:
    """Produce at a rate; return the waits of the watched partitions, in seconds."""
    settings = installation(node, f"latency-{kind}.")
    topic, log = f"{settings.prefix}behaviors", folder / f"latency-{kind}.log"
    keyed, closes = traffic(FIRST + int(per_s * (seconds + WARM_S)))
    with worker(settings, store, log) as process:
        engine = waited_for(store, log, process)
        paced = Paced(node.bootstrap, topic, per_s)
        for _ in paced.send(keyed[:FIRST]):
            pass
        for _ in range(600):  # until the worker has joined its group
            if consumed(engine, topic) >= FIRST:
                break
            time.sleep(0.1)
        watch = Watch(engine)
        watch.start()
        begun, last, waiting = time.time(), 0.0, iter(closes)
        coming = next(waiting, None)
        for rows, now in paced.send(keyed[FIRST:]):
            while coming is not None and coming[0] - FIRST < rows.stop:
                row, user_id, index = coming
                if row >= FIRST and now > begun + WARM_S and now > last + 1 / WATCHED_PER_S:
                    watch.add(user_id, index, now)
                    last = now
                coming = next(waiting, None)
        behind = time.time() - begun - (len(keyed) - FIRST) / per_s
        if behind > 0.5:
            raise RuntimeError(f"the producer was {behind:.1f} s late: it cannot do {per_s:,.0f}/s on this machine")
        waits = watch.finish()
        engine.dispose()
    return waits


def traffic(rows: int) -> tuple[list[tuple[str, str]], list[tuple[int, str, int]]]:
    """Behaviours of uniform users, and which of them close which partition: (row, user, index)."""
    counts: Counter[int] = Counter()
    keyed, closes = [], []
    for row, user in enumerate(np.random.default_rng(1).integers(0, USERS, rows).tolist()):
        key = f"user-{user:08d}"
        counts[user] += 1
        if counts[user] % COUNT == 0:
            closes.append((row, key, counts[user] // COUNT - 1))
        value = (
            f'{{"user_id":"{key}","item_id":"item-{row % 50_000:08d}","action":"play","at":{START + row / 100:.3f},'
            f'"value":{row % 300}.5,"scene":"home/shelf-3","event_id":"0001-{row:012d}-8f2c41d0"}}'
        )
        keyed.append((key, value))
    return keyed, closes


class Watch(threading.Thread):
    """Looks for partitions until they are there."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(daemon=True)
        self._engine = engine
        self._open: dict[tuple[str, int], float] = {}
        self._lock = threading.Lock()
        self._ended = False
        self._waits: list[float] = []

    def add(self, user_id: str, index: int, produced: float) -> None:
        with self._lock:
            self._open[user_id, index] = produced

    def finish(self, patience_s: float = 30.0) -> list[float]:
        """The waits, once all are found."""
        deadline = time.time() + patience_s
        while self._open and time.time() < deadline:
            time.sleep(0.05)
        self._ended = True
        self.join()
        if self._open:
            raise RuntimeError(f"{len(self._open)} partitions were not in the store after {patience_s:.0f} s")
        return self._waits

    def run(self) -> None:
        while not self._ended:
            with self._lock:
                asked = list(itertools.islice(self._open, 500))
            if asked:
                query = select(partitions.c.user_id, partitions.c.index).where(
                    partitions.c.user_id.in_({user_id for user_id, _ in asked}), partitions.c.generation == 0
                )
                with self._engine.connect() as connection:
                    there = {(row[0], row[1]) for row in connection.execute(query)}
                found = [one for one in asked if one in there]
                now = time.time()
                with self._lock:
                    self._waits += [now - self._open.pop(one) for one in found]
            time.sleep(0.01)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
