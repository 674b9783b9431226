"""Claim: a log leaves the same rows in the store however it comes: replayed, streamed through Kafka, or streamed to a
worker that is killed again and again; and a change of the code that is to change no row changes none.

    python benchmarks/store_digest.py [--quick] [--checkout DIR] [--kills 5] [--seed N]

ML-100K (`interestream fetch`) goes into three stores by the command line alone: `replay --no-llm`, `learn` by
statistics and `fuse`; an agent with all three stages; such an agent killed with SIGKILL --kills times while it works.
Each table's rows are digested in the order of their keys, all columns but the wall clock's. --checkout runs another
checkout's commands: run on two commits, the two lines show whether the rows are the same. Prints one JSON line; exits
with 1 where the three stores differ. --quick takes the first 10,000 ratings and one kill.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import MetaData, create_engine, select

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # deploy, wherever this is called from

from benchmarks.rig.servers import kafka  # noqa: E402
from deploy.kafka.node import Node  # noqa: E402

TABLES = ("behaviors", "partitions", "items", "users", "interests", "vectors", "centroids", "representations")
WALL_CLOCK = {"interests": {"at"}}
DEADLINE_S = 900.0


class Installation:
    """A store of its own and a checkout whose commands fill it."""

    def __init__(self, checkout: Path, folder: Path, more: Mapping[str, str] | None = None) -> None:
        folder.mkdir()
        self.folder, self.store = folder, f"sqlite:///{folder / 'store.db'}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("INTERESTREAM_")}
        for name in ("INTERESTREAM_CACHE",):
            if name in os.environ:
                kept[name] = os.environ[name]
        self._environment = kept | {"PYTHONPATH": str(checkout), "INTERESTREAM_STORE": self.store} | dict(more or {})

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "streams", *map(str, arguments)]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, env=self._environment, stdout=log, stderr=log)

    def run(self, *arguments: str | Path) -> None:
        if code := self.start(*arguments).wait():
            sys.exit(f"{' '.join(map(str, arguments))}: exit code {code}\n{(self.folder / 'log').read_text()[-3000:]}")

    def is_idle(self) -> bool:
        """Whether no stage has anything left to do."""
        return self.start("lag", "--max", "0").wait() == 0

    def digest(self) -> dict[str, str]:
        """By table, a digest of its rows in the order of their keys, and their number."""
        engine = create_engine(self.store)
        metadata = MetaData()
        metadata.reflect(engine, only=lambda name, _: name in TABLES)
        digests = {}
        with engine.connect() as connection:
            for name in TABLES:
                if name not in metadata.tables:  # a checkout from before there were any
                    digests[name] = "no table"
                    continue
                table = metadata.tables[name]
                columns = [column for column in table.c if column.name not in WALL_CLOCK.get(name, set())]
                rows, count = hashlib.sha256(), 0
                for row in connection.execute(select(*columns).order_by(*table.primary_key)):
                    rows.update(repr(tuple(row)).encode())
                    count += 1
                digests[name] = f"{rows.hexdigest()[:16]} of {count:,}"
        engine.dispose()
        return digests


def replayed(checkout: Path, folder: Path, files: tuple[Path, Path, Path]) -> dict[str, str]:
    place = Installation(checkout, folder / "replayed")
    log, items, users = files
    place.run("replay", log, "--items", items, "--users", users, "--no-llm")
    place.run("learn", "--llm", "statistics", "--noun", "film,films")
    place.run("fuse")
    return place.digest()


def streamed(checkout: Path, folder: Path, files: tuple[Path, Path, Path], node: Node, kills: list[float]) -> Any:
    """kills: seconds for which the worker lives before each SIGKILL, counted from its start."""
    name = "killed" if kills else "streamed"
    place = Installation(
        checkout,
        folder / name,
        {
            "INTERESTREAM_KAFKA": node.bootstrap,
            "INTERESTREAM_KAFKA_PREFIX": f"{name}.",
            "INTERESTREAM_KAFKA_SESSION_TIMEOUT_S": "6",
            "INTERESTREAM_LLM_NOUN": "film,films",
            "INTERESTREAM_AGENT_PORT": "0",
        },
    )
    log, items, users = files
    place.run("topics", "create")
    place.run("replay", log, "--items", items, "--users", users, "--kafka")
    for life in kills:
        worker = place.start("agent")
        time.sleep(life)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    worker = place.start("agent")
    started = time.monotonic()
    try:
        while not place.is_idle():
            if worker.poll() is not None or time.monotonic() - started > DEADLINE_S:
                sys.exit(f"the worker did not finish:\n{(place.folder / 'log').read_text()[-3000:]}")
            time.sleep(1)
        worker.send_signal(signal.SIGTERM)
        worker.wait()
    finally:
        worker.kill()
    return place.digest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first 10,000 ratings, one kill")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose commands to run; default: this one")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000), help="of the kills' times")
    chosen = parser.parse_args()
    cache = Path(os.environ.get("INTERESTREAM_CACHE", Path.home() / ".cache" / "interestream"))
    log, items, users = (cache / "ml-100k" / f"ml-100k.{kind}" for kind in ("inter", "item", "user"))
    files = log, items, users
    if not files[0].exists():
        sys.exit(f"{files[0]} is missing: run `interestream fetch`")
    lives = random.Random(chosen.seed)
    kills = [lives.uniform(6, 16) for _ in range(1 if chosen.quick else chosen.kills)]
    with tempfile.TemporaryDirectory(prefix="digest-") as made:
        folder = Path(made)
        if chosen.quick:
            first = folder / "ml-100k.inter"
            with files[0].open() as whole:
                first.write_text("".join(itertools.islice(whole, 10_001)))
            files = (first, files[1], files[2])
        with kafka(folder) as node:
            digests = {"replayed": replayed(chosen.checkout.resolve(), folder, files)}
            print(digests, file=sys.stderr, flush=True)
            for lifetimes in ([], kills):
                digests["killed" if lifetimes else "streamed"] = streamed(
                    chosen.checkout.resolve(), folder, files, node, lifetimes
                )
                print(digests, file=sys.stderr, flush=True)
    same = {table: len({found[table] for found in digests.values()}) == 1 for table in TABLES}
    print(json.dumps({"benchmark": "store_digest", "same": same, "seed": chosen.seed, "digests": digests}))
    sys.exit(not all(same.values()))


if __name__ == "__main__":
    main()
