"""Claim: a worker that is killed and started again on the same machine goes on within ten seconds.

    python benchmarks/takeover.py [--quick] [--save benchmarks/results/takeover.json]

One worker (`interestream agent --stages ingest`) on SQLite is killed with SIGKILL while it works off a topic, and a
successor is started at once. `takeover_s` is the time from the kill to the first behaviours that the successor commits,
the start of its process among it. The session with Kafka lasts 45 s, so a successor that had to wait for the end of the
dead one's would need longer. Five kills; --quick two. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rig.behaviors import messages, preload
from benchmarks.rig.servers import consumed, fresh_store, installation, kafka
from benchmarks.rig.worker import waited_for, worker

AIM_S, PATIENCE_S, EACH = 10.0, 120.0, 60_000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="two kills")
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    kills = 2 if chosen.quick else 5
    with tempfile.TemporaryDirectory() as made, kafka(Path(made)) as node:
        settings = installation(node, "takeover.")
        topic = f"{settings.prefix}behaviors"
        preload(node.bootstrap, topic, messages("uniform", EACH * (kills + 1)))
        store, log = fresh_store("sqlite", Path(made), ""), Path(made) / "worker.log"
        seconds: list[float] = []
        killed_at = dead_had = 0.0
        for life in range(kills + 1):
            with worker(settings, store, log) as process:
                engine = waited_for(store, log, process)
                began = time.monotonic()
                while (done := consumed(engine, topic)) <= dead_had:
                    if time.monotonic() > began + PATIENCE_S or process.poll() is not None:
                        raise RuntimeError(f"the worker did not go on:\n{log.read_text()[-4000:]}")
                    time.sleep(0.01)
                if life:
                    seconds.append(round(time.monotonic() - killed_at, 2))
                    print(f"kill {life}: the successor committed after {seconds[-1]} s", file=sys.stderr, flush=True)
                process.kill()
                killed_at = time.monotonic()
                process.wait()
                dead_had = consumed(engine, topic)
                engine.dispose()
            if done >= EACH * (kills + 1):
                raise RuntimeError("the topic was worked off before the last kill; raise EACH")
    line = {"benchmark": "takeover", "quick": chosen.quick, "session_s": settings.session_timeout_s}
    line |= {"takeover_s": seconds, "most_s": max(seconds), "holds": max(seconds) <= AIM_S}
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


if __name__ == "__main__":
    main()
