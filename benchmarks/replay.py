"""Replay without the LLM against decoding the same rows alone, in one run; prints one JSON line.

    python benchmarks/replay.py [--quick] [--data ../shared/data]

Two logs: ML-1M from Parquet where it is at hand (`--data`), and a generated log in which 100,000 users interleave.
`events_per_s` counts from opening the log to the last durable commit; `ratio_to_decode` sets that against reading the
same file into behaviours; `bytes_per_behavior` is the store's size; `peak_mb` the largest resident memory of a process
that did nothing but the replay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.ml1m.protocol import DATA, RATINGS

REPEATS = 3  # the best of each is taken: other processes on the machine can only slow a run down


def generated(folder: Path, rows: int) -> Path:
    """`rows` events of 100,000 users, drawn uniformly, in order of time."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    chosen = np.random.default_rng(1)
    table = {
        "user_id": pa.array(chosen.integers(0, 100_000, rows)),
        "item_id": pa.array(chosen.zipf(1.3, rows) % 50_000),
        "rating": pa.array(chosen.integers(1, 6, rows).astype(float)),
        "timestamp": pa.array(1_700_000_000 + np.arange(rows) // 50),
    }
    path = folder / "interleaved.parquet"
    pq.write_table(pa.table(table), path)
    return path


def one(job: str, path: Path, folder: Path) -> dict[str, float]:
    """Run one job in a process of its own, so that its memory is its own."""
    made = subprocess.run(
        [sys.executable, __file__, "--job", job, str(path), str(folder)], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(made.stdout)
    return found


def job(name: str, path: Path, folder: Path) -> dict[str, float]:
    import resource

    from streams.files.rows import BehaviorLog
    from streams.replay.embedded import replay
    from streams.store.engine import open_store
    from streams.ubsp.policy import Policy

    if name == "decode":
        start = time.perf_counter()
        count = sum(len(rows.behaviors()) for rows in BehaviorLog(path, {}).chunks())
        return {"seconds": time.perf_counter() - start, "rows": count}
    file = Path(tempfile.mkdtemp(dir=folder)) / "store.db"
    engine = open_store(f"sqlite:///{file}")
    start = time.perf_counter()
    replayed = replay(engine, BehaviorLog(path, {}), Policy())
    seconds = time.perf_counter() - start
    engine.dispose()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "rows": replayed.position.accepted, "bytes": file.stat().st_size, "peak_mb": peak}


def measure(path: Path, folder: Path) -> dict[str, float]:
    decodes, replays = [], []
    for _ in range(REPEATS):  # in turn, so that a slow minute slows both
        decodes.append(one("decode", path, folder))
        replays.append(one("replay", path, folder))
    decode = min(decodes, key=lambda run: run["seconds"])
    replayed = min(replays, key=lambda run: run["seconds"])
    rate = replayed["rows"] / replayed["seconds"]
    return {
        "events_per_s": round(rate),
        "ratio_to_decode": round(rate / (decode["rows"] / decode["seconds"]), 3),
        "bytes_per_behavior": round(replayed["bytes"] / replayed["rows"], 1),
        "peak_mb": round(max(run["peak_mb"] for run in replays)),
        "rows": int(replayed["rows"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200,000 generated rows, no ML-1M")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of ML-1M")
    parser.add_argument("--job", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(job(options.job[0], Path(options.job[1]), Path(options.job[2]))))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        ratings = options.data / RATINGS
        interleaved = measure(generated(folder, 200_000 if options.quick else 1_000_000), folder)
        whole = {"interleaved_100k_users": interleaved}
        if not options.quick and ratings.exists():
            whole["ml1m"] = measure(ratings, folder)
        elif not options.quick:
            print(f"ML-1M is left out: {options.data} has no {RATINGS}. It needs {DATA}", file=sys.stderr)
        headline = whole.get("ml1m", interleaved)
        print(json.dumps({"benchmark": "replay", **headline, "logs": whole}))


if __name__ == "__main__":
    main()
