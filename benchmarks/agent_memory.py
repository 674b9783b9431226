"""Claim: a worker's memory does not grow with the behaviours it has seen.

    python benchmarks/agent_memory.py [--quick] [--save benchmarks/results/agent_memory.json]

One worker (`interestream agent --stages ingest`) on SQLite works off a topic of behaviours of 100,000 uniform users;
its resident memory is read at each 100,000. `growth` sets the mean of the last fifth against that of the second last.
The worker remembers the identities of its last one to two million behaviours (streams/ubsp/ingest.py, HOT_BEHAVIORS),
so memory is flat from there on, which `--quick` does not reach.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

from benchmarks.rig.behaviors import messages, preload
from benchmarks.rig.servers import consumed, fresh_store, installation, kafka
from benchmarks.rig.worker import resident_mb, waited_for, worker

STEP = 100_000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="500,000 behaviours instead of 3,000,000")
    options.add_argument("--rows", type=int)
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    rows = chosen.rows or (500_000 if chosen.quick else 3_000_000)
    with tempfile.TemporaryDirectory() as made, kafka(Path(made)) as node:
        settings = installation(node, "memory.")
        topic = f"{settings.prefix}behaviors"
        say(f"producing {rows:,} behaviours")
        preload(node.bootstrap, topic, messages("uniform", rows))
        store, log = fresh_store("sqlite", Path(made), ""), Path(made) / "worker.log"
        sizes: list[float] = []
        with worker(settings, store, log) as process:
            engine = waited_for(store, log, process)
            while len(sizes) < rows // STEP:
                if process.poll() is not None:
                    raise RuntimeError(log.read_text()[-4000:])
                if consumed(engine, topic) >= (len(sizes) + 1) * STEP:
                    sizes.append(round(resident_mb(process.pid), 1))
                    say(f"{len(sizes) * STEP:,} behaviours: {sizes[-1]} MB")
                time.sleep(0.02)
            engine.dispose()
    fifth = max(1, len(sizes) // 5)
    line = {
        "benchmark": "agent_memory",
        "quick": chosen.quick,
        "growth": round(fmean(sizes[-fifth:]) / fmean(sizes[-2 * fifth : -fifth]), 3),
        "most_mb": max(sizes),
        "mb_at_each_100k": sizes,
        "rows": rows,
    }
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
