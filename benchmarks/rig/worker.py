"""One worker of the stream agent as a process, started as a deployment starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from benchmarks.rig.servers import consumed
from deploy.kafka.node import free_port
from streams.settings.schema import KafkaSettings

START_S = 60.0


@contextmanager
def worker(kafka: KafkaSettings, store: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`interestream agent --stages ingest`, told everything by its environment."""
    told = {
        "INTERESTREAM_KAFKA": kafka.brokers,
        "INTERESTREAM_KAFKA_PREFIX": kafka.prefix,
        "INTERESTREAM_KAFKA_PARTITIONS": str(kafka.partitions),
        "INTERESTREAM_STORE": store,
        "INTERESTREAM_AGENT_PORT": str(free_port()),
    }
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "streams", "agent", "--stages", "ingest"],
            env=os.environ | told,
            stdout=out,
            stderr=out,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def waited_for(store: str, log: Path, process: subprocess.Popen[bytes]) -> Engine:
    """The store's engine, once the worker has made its tables."""
    engine = create_engine(store)
    for _ in range(600):
        try:
            with engine.connect() as connection:
                connection.execute(text("select 1 from offsets")).first()
        except DBAPIError:  # no such table, locked: the worker is at it
            if process.poll() is not None:
                break
            time.sleep(0.1)
        else:
            return engine
    raise RuntimeError(f"the worker made no store:\n{log.read_text()[-4000:]}")


class Rate(NamedTuple):
    per_s: float  # messages
    cpu_us: float  # of the consumer's own process for each message: what other processes on the machine cannot change


def rate(process: subprocess.Popen[bytes], engine: Engine, topic: str, rows: int, log: Path) -> Rate:
    """Between the first commit the store shows and the last."""
    first: tuple[float, int, float] | None = None
    begun = time.perf_counter()
    while True:
        done, now = consumed(engine, topic), time.perf_counter()
        if first is None and done:
            first = (now, done, cpu_s(process.pid))
        if done >= rows:
            break
        if process.poll() is not None or (first is None and now > begun + START_S):
            raise RuntimeError(f"the worker did not work:\n{log.read_text()[-4000:]}")
        time.sleep(0.02)
    assert first is not None
    count = max(1, done - first[1])
    return Rate(count / (now - first[0]), 1e6 * (cpu_s(process.pid) - first[2]) / count)


def cpu_s(process: int) -> float:
    """Seconds of CPU that a process has used, in all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(process: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(process)
