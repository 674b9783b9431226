"""`interestream learn` and `replay` against LLM servers as they are: what is stored, what is told, what the exit is."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from interest.llm.scripted import Scripted
from interest.store.tables import answers, interests
from interest.types import Outcome
from streams.store.engine import open_store
from tests.support.chat_server import Body, ChatServer
from tests.support.llm_world import answer

USERS, PARTITIONS, SIZE = 3, 4, 6
ROOT = Path(__file__).parents[2]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    lines = ["user_id,item_id,timestamp,rating"]
    for user in range(USERS):
        for at in range(PARTITIONS * SIZE):
            item = at % 3 if at // SIZE % 2 else at % 2 * 2
            lines.append(f"u{user},{item}-{at // SIZE}-{user},{880_000_000 + 1000 * at + user},{4 + at % 2}")
    path = tmp_path / "log.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    lines = ["item_id,title,genres"]
    for user in range(USERS):
        for part in range(PARTITIONS):
            for kind, genre in enumerate(("Drama", "Comedy", "Comedy|Drama")):
                lines.append(f"{kind}-{part}-{user},Film {'ABC'[kind]}{part}{user},{genre}")
    path = tmp_path / "items.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 's.db'}"


@pytest.fixture
def filled(log: Path, catalogue: Path, url: str) -> Iterator[Engine]:
    code, said = run("replay", log, "--items", catalogue, "--store", url, "--partition", SIZE, "--no-llm")
    assert code == 0, said
    engine = open_store(url)
    yield engine
    engine.dispose()


def start(*arguments: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "INTERESTREAM_LLM_KEY": "sk-secret"}
    return subprocess.Popen(
        [sys.executable, "-m", "streams", *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def run(*arguments: object) -> tuple[int, str]:
    process = start(*arguments)
    _, said = process.communicate(timeout=120)
    assert "Traceback" not in said
    assert "sk-secret" not in said
    return process.returncode, said


def learn(server: ChatServer, url: str, *more: object) -> tuple[int, str]:
    return run("learn", "--store", url, "--llm", server.url, "--llm-model", "m", *more)


def outcomes(engine: Engine) -> dict[tuple[str, int], str]:
    with engine.connect() as connection:
        query = select(interests.c.user_id, interests.c.index, interests.c.summary_outcome)
        return {(row[0], row[1]): row[2] for row in connection.execute(query)}


def titles(body: Body) -> str:
    return str(body["messages"][-1]["content"])


def test_without_credit_nothing_is_stored_and_the_last_line_says_why(filled: Engine, url: str) -> None:
    def odd(_body: Body) -> tuple[int, bytes]:
        return 400, b'{"error": {"message": "API key not valid. Please pass a valid API key."}}'

    with ChatServer(Scripted(answer), odd=odd) as server:
        code, said = learn(server, url)
        assert code != 0
        assert "API key not valid" in said.strip().splitlines()[-1]
        assert outcomes(filled) == {}
        server.odd = None
        code, said = learn(server, url)
    assert code == 0, said
    assert set(outcomes(filled).values()) <= {Outcome.OK, Outcome.TRIMMED}
    assert len(outcomes(filled)) == USERS * PARTITIONS


@pytest.mark.parametrize("title", ["Film A00", "Film C12"])  # of the first partition, which the probe asks about too
def test_one_filtered_partition_stops_nothing_and_can_be_asked_again(filled: Engine, url: str, title: str) -> None:
    def odd(body: Body) -> tuple[int, bytes] | None:
        return (400, b'{"error": {"code": "content_filter", "message": "flagged"}}') if title in titles(body) else None

    with ChatServer(Scripted(answer), odd=odd) as server:
        code, said = learn(server, url)
        assert code == 0, said
        found = outcomes(filled)
        assert len(found) == USERS * PARTITIONS
        mine = (f"u{title[-1]}", int(title[-2]))
        assert found.pop(mine) == Outcome.REFUSED
        assert Outcome.REFUSED not in found.values()
        asked = len(server.bodies)
        assert learn(server, url)[0] == 0
        assert len(server.bodies) == asked  # it is an outcome: not asked again by itself
        server.odd = None
        code, said = learn(server, url, "--again", "refused")
    assert code == 0, said
    assert Outcome.REFUSED not in outcomes(filled).values()


def test_replies_that_cannot_be_read_leave_their_partition_open(filled: Engine, url: str) -> None:
    def odd(body: Body) -> tuple[int, bytes] | None:
        return (200, b"<html>") if "Film A21" in titles(body) else None

    with ChatServer(Scripted(answer), odd=odd) as server:
        code, said = learn(server, url)
        assert code != 0
        assert "does not speak the OpenAI protocol" in said.strip().splitlines()[-1]
        found = outcomes(filled)
        assert ("u1", 2) not in found
        assert USERS * PARTITIONS - 3 <= len(found) < USERS * PARTITIONS
        server.odd = None
        assert learn(server, url)[0] == 0
    assert len(outcomes(filled)) == USERS * PARTITIONS


def wrapped(reply: str) -> str:
    told = json.loads(reply)
    told["evidence"] = [str(number) for number in told["evidence"]]
    return f"<think>They like\n\nfilms.</think>Here it is:\n```json\n{json.dumps(told | {'confidence': 0.9})}\n```\n"


def test_answers_in_fences_with_thoughts_and_more_are_kept(filled: Engine, url: str) -> None:
    with ChatServer(Scripted(lambda request: wrapped(answer(request)))) as server:
        code, said = learn(server, url)
    assert code == 0, said
    assert set(outcomes(filled).values()) <= {Outcome.OK, Outcome.TRIMMED}
    with filled.connect() as connection:
        assert all("```" not in text for text in connection.execute(select(interests.c.summary)).scalars())


def test_a_slow_server_shows_rows_and_a_corrected_estimate_early(filled: Engine, url: str) -> None:
    moods: dict[str, Any] = {"wait": 0.3}

    def odd(_body: Body) -> None:
        time.sleep(moods["wait"])

    with ChatServer(Scripted(answer), odd=odd) as server:
        process = start("learn", "--store", url, "--llm", server.url, "--llm-model", "m")
        end = time.monotonic() + 60
        early = 0
        while process.poll() is None and time.monotonic() < end:
            early = len(outcomes(filled)) or early
            if 0 < early < USERS * PARTITIONS:
                break
            time.sleep(0.02)
        assert 0 < early < USERS * PARTITIONS
        _, said = process.communicate(timeout=60)
    corrected = [line for line in said.splitlines() if line.startswith("measured so far")]
    assert len(corrected) == 1, said
    assert int(re.findall(r"(\d+) partitions", corrected[0])[0]) < USERS * PARTITIONS


def test_an_interrupt_ends_within_three_seconds_and_keeps_all_answers(filled: Engine, url: str) -> None:
    slow: list[Body] = []

    def odd(body: Body) -> None:
        if len(server.bodies) > 9:
            slow.append(body)
            time.sleep(8)

    with ChatServer(Scripted(answer), odd=odd) as server:
        process = start("learn", "--store", url, "--llm", server.url, "--llm-model", "m")
        end = time.monotonic() + 60
        while not slow and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.3)
        answered = [body for body in server.bodies if body not in slow]
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert time.monotonic() - began < 3.0
        assert process.returncode == 130, said
        assert "Traceback" not in said
        with filled.connect() as connection:
            assert len(connection.execute(select(answers.c.key)).all()) == len(answered)
        server.odd = None
        server.bodies.clear()
        assert learn(server, url)[0] == 0
        assert not [body for body in server.bodies if body in answered]
    assert len(outcomes(filled)) == USERS * PARTITIONS


def test_replay_names_the_model_of_a_server(log: Path, catalogue: Path, url: str) -> None:
    with ChatServer(Scripted(answer), root="/api/paas/v4") as server:
        arguments = ("replay", log, "--items", catalogue, "--store", url, "--partition", SIZE)
        server_at = f"{server.url}/api/paas/v4"
        code, said = run(*arguments, "--llm", server_at)
        assert (code, "--llm-model" in said) == (2, True)
        process = start(*arguments, "--llm", server_at, "--llm-model", "glm")
        assert process.stderr is not None
        assert any("learnt 12 partitions" in line for line in process.stderr)
        process.kill()  # what follows makes vectors, and takes a minute
        process.communicate()
        assert {body["model"] for body in server.bodies} == {"glm"}
