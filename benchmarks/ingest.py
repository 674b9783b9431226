"""Claim: a worker's ingest stage, down to the durable commit, does at least 8 times the events/s of a plain Faust agent
that decodes the same topic and does nothing, and at least 0.3 of bare aiokafka `getmany` and decoding.

    python benchmarks/ingest.py [--quick] [--save benchmarks/results/ingest.json]

In one run, on one Kafka, one process each, topics of JSON behaviours of about 170 bytes, users Zipf and uniform over
100,000: `getmany` (the fastest a consumer in Python can be), Faust (an agent that decodes and drops), Quix Streams (a
count per user, with its changelog), and `interestream agent --stages ingest` on SQLite and on PostgreSQL, where rates
count from the first commit that the store shows to the last. A ratio is the least of our four cases', each against the
peer on the same topic. All is measured in turn `--repeats` times and the best taken: other processes on the machine can
only slow a run down. `cpu_us` is what a message costs the consumer's own process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import text

from benchmarks.rig.behaviors import messages, preload
from benchmarks.rig.servers import fresh_store, installation, kafka, postgres
from benchmarks.rig.worker import Rate, rate, waited_for, worker
from streams.settings.schema import KafkaSettings

BATCH = 5_000  # messages of one getmany; more is no faster
WARM = 2_000  # events after which Faust and Quix are in their steady state


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="300,000 behaviours instead of 2,000,000, once")
    options.add_argument("--repeats", type=int, help="default: 3, and 1 with --quick")
    options.add_argument("--save", type=Path)
    options.add_argument("--peer", nargs=3, metavar=("NAME", "BROKERS", "TOPIC"), help=argparse.SUPPRESS)
    options.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.peer:
        name, brokers, topic = chosen.peer
        PEERS[name](brokers, topic, chosen.rows)
        return
    rows = 300_000 if chosen.quick else 2_000_000
    line = {"benchmark": "ingest", "quick": chosen.quick, **measure(rows, chosen.repeats or (1 if chosen.quick else 3))}
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def measure(rows: int, repeats: int) -> dict[str, Any]:
    """Every peer and every case of ours in turn; the figures of the run."""
    limits = {"getmany": rows, "faust": min(rows // 10, 100_000), "quix": min(rows // 10, 100_000)}
    found: dict[str, list[Rate]] = {}
    sizes, closed = [], {}
    with tempfile.TemporaryDirectory() as made, kafka(Path(made)) as node, postgres() as server:
        folder = Path(made)
        topics = {users: installation(node, f"{users}.") for users in ("zipf", "uniform")}
        for users in topics:
            say(f"producing {rows:,} behaviours of {users} users")
            sizes.append(preload(node.bootstrap, f"{users}.behaviors", messages(users, rows)))
        for turn in range(repeats):
            for users, settings in topics.items():
                topic = f"{users}.behaviors"
                for name, limit in limits.items():
                    found.setdefault(f"{name}_{users}", []).append(peer(name, settings.brokers, topic, limit, folder))
                    say(f"{turn + 1}/{repeats} {name}, {users}: {found[f'{name}_{users}'][-1].per_s:,.0f}/s")
                for kind in ("sqlite", "postgresql"):
                    speed, partitions = ours(settings, topic, fresh_store(kind, folder, server), rows, folder)
                    found.setdefault(f"{kind}_{users}", []).append(speed)
                    closed[users] = partitions
                    say(f"{turn + 1}/{repeats} ingest, {kind}, {users}: {speed.per_s:,.0f}/s")
    best = {name: max(rates) for name, rates in found.items()}
    cases = {(kind, users): best[f"{kind}_{users}"].per_s for kind in ("sqlite", "postgresql") for users in topics}
    against = {
        f"vs_{name}": round(min(speed / best[f"{name}_{users}"].per_s for (_, users), speed in cases.items()), 2)
        for name in limits
    }
    return {
        "events_per_s": round(min(cases.values())),
        **against,
        "rates": {name: round(one.per_s) for name, one in best.items()},
        "cpu_us": {name: round(min(rate.cpu_us for rate in rates), 1) for name, rates in found.items()},
        "rows": rows,
        "bytes_per_event": round(max(sizes)),
        "partitions_closed": closed,
        "repeats": repeats,
        "cpus": os.cpu_count(),
    }


def ours(settings: KafkaSettings, topic: str, store: str, rows: int, folder: Path) -> tuple[Rate, int]:
    """Events/s of one worker from its first commit to its last, and the partitions it closed."""
    log = folder / "worker.log"
    with worker(settings, store, log) as process:
        engine = waited_for(store, log, process)
        speed = rate(process, engine, topic, rows, log)
    with engine.connect() as connection:
        partitions = int(connection.execute(text("select count(*) from partitions")).scalar_one())
        kept, lost = connection.execute(text("select sum(accepted), sum(rejected) from offsets")).one()
    engine.dispose()
    if (kept, lost) != (rows, 0):
        raise RuntimeError(f"the worker kept {kept} behaviours of {rows} and rejected {lost}")
    return speed, partitions


def peer(name: str, brokers: str, topic: str, rows: int, folder: Path) -> Rate:
    """Events/s of a peer in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--peer", name, brokers, topic, "--rows", str(rows)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    said = re.search(r'\{"events_per_s": .*?\}', done.stdout)  # Faust writes terminal codes around it
    if not said:
        raise RuntimeError(f"{name} said nothing:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return Rate(*json.loads(said[0]).values())


class Watch:
    """Time and CPU from when it is made; tells them of so many events."""

    def __init__(self) -> None:
        self.begun, self.cpu = time.perf_counter(), time.process_time()

    def tell(self, rows: int) -> None:
        seconds, cpu = time.perf_counter() - self.begun, time.process_time() - self.cpu
        print(json.dumps({"events_per_s": rows / seconds, "cpu_us": 1e6 * cpu / rows}), flush=True)


class Event(msgspec.Struct):
    """What a consumer that checks its messages decodes them to."""

    user_id: str
    item_id: str
    action: str
    at: float
    value: float | None = None
    scene: str | None = None
    event_id: str | None = None


def peer_getmany(brokers: str, topic: str, rows: int) -> None:
    """aiokafka's getmany and msgspec, nothing else."""
    from aiokafka import AIOKafkaConsumer

    async def run() -> None:
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=brokers, auto_offset_reset="earliest")
        decode, count, watch = msgspec.json.Decoder(Event).decode, 0, None
        await consumer.start()
        try:
            while count < rows:
                for messages in (await consumer.getmany(timeout_ms=1000, max_records=BATCH)).values():
                    watch = watch or Watch()
                    for message in messages:
                        decode(message.value)
                    count += len(messages)
            assert watch is not None
            watch.tell(count)
        finally:
            await consumer.stop()

    asyncio.run(run())


def peer_faust(brokers: str, topic: str, rows: int) -> None:
    """A Faust agent that gets the raw bytes, the cheapest Faust has, decodes them with msgspec, and drops them."""
    import faust

    app = faust.App(
        f"bench-{os.getpid()}",
        broker=f"kafka://{brokers}",
        store="memory://",
        topic_disable_leader=True,
        web_enabled=False,
        value_serializer="raw",
    )
    decode = msgspec.json.Decoder(Event).decode

    @app.agent(app.topic(topic, value_type=bytes, key_type=bytes, key_serializer="raw"))
    async def nothing(stream: Any) -> None:
        count, watch = 0, Watch()
        async for value in stream:
            decode(value)
            count += 1
            if count == WARM:
                watch = Watch()
            elif count == rows:
                watch.tell(rows - WARM)
                os._exit(0)

    faust.Worker(app, loglevel="WARN", quiet=True, redirect_stdouts=False).execute_from_commandline()


def peer_quix(brokers: str, topic: str, rows: int) -> None:
    """Quix Streams counts each user's events in its state, backed by a changelog topic as it is by default."""
    from quixstreams import Application, State

    seen, watch = 0, Watch()

    def count(value: dict[str, Any], state: State[Any, Any]) -> dict[str, Any]:
        nonlocal seen, watch
        state.set("count", state.get("count", 0) + 1)
        seen += 1
        if seen == WARM:
            watch = Watch()
        elif seen == rows:
            watch.tell(rows - WARM)
            os._exit(0)
        return value

    with tempfile.TemporaryDirectory() as state:
        app = Application(
            broker_address=brokers,
            consumer_group=f"bench-{os.getpid()}",
            auto_offset_reset="earliest",
            state_dir=state,
            loglevel="WARNING",
        )
        behaviors = app.topic(topic, key_deserializer="str", value_deserializer="json")
        app.dataframe(behaviors).apply(count, stateful=True)
        app.run()


PEERS = {"getmany": peer_getmany, "faust": peer_faust, "quix": peer_quix}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
