"""Several workers on one machine: each a process of its own, started again if it dies, ended together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType

import structlog

from interest.retry import Backoff

REFUSED = 2  # the exit code of an error that another start would meet again
BACKOFF = Backoff(first_s=2.0, most_s=30.0)
STEADY_S = 60.0  # a worker that lived so long starts anew without delay
GRACE_S = 5.0  # beyond agent.drain_s: the time that closing takes
log = structlog.get_logger()


@dataclass(slots=True)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    started: float
    deaths: int = 0  # in a row, each soon after its start
    restart_at: float | None = field(default=None)


def supervise(count: int, stages: Sequence[str], port: int, drain_s: float) -> int:
    """Run `count` workers until SIGTERM or SIGINT; return the exit code.

    A worker that is killed or fails is started again, with back-off. One that refuses to go on (a setting, a topic that
    is not as it must be) ends all: the others would refuse too.
    """
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)

    def start(number: int) -> subprocess.Popen[bytes]:
        own = {"INTERESTREAM_AGENT_PORT": str(port + number if port else 0)}
        command = [sys.executable, "-m", "streams", "agent", "--stages", ",".join(stages), "--number", str(number)]
        return subprocess.Popen(command, env=os.environ | own, start_new_session=True)

    workers = [_Worker(number, start(number), time.monotonic()) for number in range(count)]
    code = 0
    while not asked and not code:
        time.sleep(0.2)
        now = time.monotonic()
        for worker in workers:
            if worker.restart_at is not None:
                if now >= worker.restart_at:
                    worker.process, worker.started, worker.restart_at = start(worker.number), now, None
            elif (ended := worker.process.poll()) is not None:
                if ended == REFUSED:
                    code = REFUSED
                    break
                worker.deaths = 0 if now - worker.started > STEADY_S else worker.deaths + 1
                wait_s = BACKOFF.delay_s(worker.deaths)
                worker.restart_at = now + wait_s
                log.warning("worker died", number=worker.number, code=ended, again_in_s=wait_s)
    _end(workers, drain_s + GRACE_S)
    return code or max((worker.process.returncode or 0 for worker in workers if worker.restart_at is None), default=0)


def _end(workers: Sequence[_Worker], patience_s: float) -> None:
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.terminate()
    deadline = time.monotonic() + patience_s
    for worker in workers:
        try:
            worker.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            log.warning("worker killed", number=worker.number, after_s=patience_s)
            worker.process.kill()
            worker.process.wait()
