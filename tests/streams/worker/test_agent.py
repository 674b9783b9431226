"""`interestream agent` as whoever deploys it meets it: real processes, signals, ports and exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.kafka.node import free_port
from streams.kafka.provision import create_topics
from streams.settings.schema import KafkaSettings

PATIENCE_S = 120.0  # the machine is shared; what is asserted is that it happens


def environment(kafka: KafkaSettings, folder: Path, port: int) -> dict[str, str]:
    return os.environ | {
        "INTERESTREAM_KAFKA": kafka.brokers,
        "INTERESTREAM_KAFKA_PREFIX": kafka.prefix,
        "INTERESTREAM_STORE": f"sqlite:///{folder / 'agent.db'}",
        "INTERESTREAM_AGENT_PORT": str(port),
        "INTERESTREAM_AGENT_LOG": "json",
    }


@contextmanager
def agent(own: dict[str, str], log: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        command = [sys.executable, "-m", "streams", "agent", "--stages", "ingest", *options]
        process = subprocess.Popen(command, cwd=log.parent, env=own, stdout=out, stderr=out)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def until(what: Callable[[], bool], text: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s until {text}"
        time.sleep(0.2)


def two_free_ports() -> int:
    """The first of two neighbours: the crew's second worker takes the next one."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def children(parent: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def test_a_worker_serves_its_state_and_ends_with_the_signal(kafka: KafkaSettings, tmp_path: Path) -> None:
    create_topics(kafka)
    port, log = free_port(), tmp_path / "log"
    with agent(environment(kafka, tmp_path, port), log) as process:
        until(lambda: get(port, "/ready")[0] == 200, "the worker is ready")
        assert json.loads(get(port, "/live")[1]) == {"live": True}
        assert "interestream_ready 1.0" in get(port, "/metrics")[1]
        assert get(port, "/other")[0] == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert "worker started" in [event["event"] for event in events]
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]  # it leaves nothing where it was started


def test_a_taken_port_and_missing_topics_end_it_with_the_remedy(kafka: KafkaSettings, tmp_path: Path) -> None:
    own = environment(kafka, tmp_path, 0)
    with agent(own, tmp_path / "first") as process:
        assert process.wait(60) == 2
    assert "interestream topics create" in (tmp_path / "first").read_text()
    create_topics(kafka)
    port = free_port()
    with agent(environment(kafka, tmp_path, port), tmp_path / "one"):
        until(lambda: get(port, "/live")[0] == 200, "the first worker answers")
        with agent(environment(kafka, tmp_path, port), tmp_path / "two") as second:
            assert second.wait(60) == 2
    assert "set INTERESTREAM_AGENT_PORT" in (tmp_path / "two").read_text()


@pytest.mark.parametrize("stages", ["", "ingest,dreams"])
def test_a_stage_that_there_is_not(stages: str, kafka: KafkaSettings, tmp_path: Path) -> None:
    with agent(environment(kafka, tmp_path, 0), tmp_path / "log", "--stages", stages) as process:
        assert process.wait(60) == 2
    assert "the stages are ingest, interest, fusion" in (tmp_path / "log").read_text()


def test_a_crew_starts_a_killed_worker_again_and_ends_together(kafka: KafkaSettings, tmp_path: Path) -> None:
    create_topics(kafka)
    port = two_free_ports()
    with agent(environment(kafka, tmp_path, port), tmp_path / "log", "--workers", "2") as crew:
        until(lambda: len(children(crew.pid)) == 2, "two workers run")
        until(lambda: get(port, "/ready")[0] == 200, "the first is ready")
        until(lambda: get(port + 1, "/ready")[0] == 200, "the second is ready")
        before = children(crew.pid)
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(set(children(crew.pid)) - set(before)) == 1, "the killed one runs again")
        until(lambda: get(port, "/ready")[0] == 200, "it is ready again")
        workers = children(crew.pid)
        crew.send_signal(signal.SIGTERM)
        assert crew.wait(40) == 0
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
