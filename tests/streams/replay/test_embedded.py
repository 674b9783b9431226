"""Replay as a user meets it: the command on files, interrupted, resumed, refused."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from streams.files.rows import BehaviorLog
from streams.replay.embedded import replay
from streams.ubsp.policy import Policy
from tests.support.moments import SOAK, moments

COMMAND = Path(sys.executable).parent / "interestream"
AT = 1_700_000_000


def interestream(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def write_log(path: Path, rows: int, *, users: int = 40, shuffled: bool = True) -> None:
    chosen = random.Random(1)
    lines = [
        f"u{chosen.randrange(users)},{chosen.randrange(500)},{chosen.randrange(1, 6)},{AT + number // 3}"
        for number in range(rows)
    ]
    lines[10] = f"u1,7,five,{AT}"
    if shuffled:
        chosen.shuffle(lines)
    path.write_text("\n".join(["user_id,item_id,rating,timestamp", *lines]) + "\n")


def dump(folder: Path) -> dict[str, list[Any]]:
    with sqlite3.connect(folder / "interestream.db") as connection:
        return {
            table: sorted(connection.execute(f"select * from {table}").fetchall(), key=repr)
            for table in ("behaviors", "partitions", "offsets")
        }


def test_progress_counts_each_row_once_however_often_it_is_read(store: Engine, tmp_path: Path) -> None:
    counts: list[int] = []

    def started(total: int, before: int, _sorted: bool) -> Callable[[int], None]:
        counts.extend((-total, before))
        return counts.append

    for rows in (60, 90):  # rows were appended
        write_log(tmp_path / "log.csv", rows, shuffled=False)
        replay(store, BehaviorLog(tmp_path / "log.csv", {}), Policy(count=10), started=started)
        assert -rows in counts
        assert sum(counts) == 0


@pytest.mark.parametrize("shuffled", [True, False])
def test_killed_anywhere_and_run_again_the_store_is_the_same(tmp_path: Path, shuffled: bool) -> None:
    log = tmp_path / "log.csv"
    write_log(log, 120_000 if SOAK else 80_000, shuffled=shuffled)
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    calm.mkdir()
    stormy.mkdir()
    assert interestream(calm, "replay", log, "--no-llm", "--gap", "1h").returncode == 0

    killed, chosen = 0, moments()
    for attempt in range(8 if SOAK else 3):
        process = subprocess.Popen(
            [COMMAND, "replay", log, "--no-llm", "--gap", "1h"],
            cwd=stormy,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        wanted = attempt + 1  # let each life commit at least once more, then kill it in the middle of whatever it does
        while process.poll() is None and time.monotonic() < deadline:
            if commits(stormy / "interestream.db") >= wanted:
                time.sleep(chosen.random() * 0.05)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        if process.wait(60) == -signal.SIGKILL:
            killed += 1
        else:
            break
    assert killed >= 3
    last = interestream(stormy, "replay", log, "--no-llm", "--gap", "1h")
    assert last.returncode == 0, last.stderr
    assert dump(stormy) == dump(calm)
    rejected = [json.loads(line) for line in (tmp_path / "log.csv.rejected.jsonl").read_text().splitlines()]
    assert [(one["reason"], one["row"]["rating"]) for one in rejected] == [("rating is not a number: 'five'", "five")]


def commits(database: Path) -> int:
    """Transactions of 20,000 rows that the store holds."""
    if not database.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=0.1) as connection:
            return int(connection.execute("select offset from offsets").fetchone()[0]) // 19_000
    except (sqlite3.Error, TypeError):
        return 0


def test_a_second_replay_changes_nothing_and_appended_rows_go_on(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    write_log(log, 3000, shuffled=False)
    first = interestream(tmp_path, "replay", log, "--no-llm")
    assert "2,999 behaviours" in first.stdout or "duplicates" in first.stdout
    before = dump(tmp_path)
    again = interestream(tmp_path, "replay", log, "--no-llm")
    assert "3,000 done earlier" in again.stdout
    assert dump(tmp_path) == before

    with log.open("a") as file:
        file.write(f"u1,499,5,{AT + 5000}\n")
    assert interestream(tmp_path, "replay", log, "--no-llm").returncode == 0
    after = dump(tmp_path)
    assert len(after["behaviors"]) == len(before["behaviors"]) + 1
    assert len(after["offsets"]) == 1


def test_a_log_that_changed_before_the_stored_offset_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    write_log(log, 3000, shuffled=False)
    interestream(tmp_path, "replay", log, "--no-llm")
    before = dump(tmp_path)
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:50], *lines[900:]]) + "\n")
    refused = interestream(tmp_path, "replay", log, "--no-llm")
    assert refused.returncode == 2
    assert "is not what it was" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert dump(tmp_path) == before


def test_a_log_is_the_same_log_under_another_name_or_format(tmp_path: Path) -> None:
    rows = [{"user_id": f"u{n % 3}", "item_id": str(n), "timestamp": AT + n} for n in range(100)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    interestream(tmp_path, "replay", "a.jsonl", "--no-llm", "--action", "rate")
    before = dump(tmp_path)
    rows.append({"user_id": "u1", "item_id": "new", "timestamp": AT + 100, "scene": "home"})
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = interestream(tmp_path, "replay", "b.jsonl", "--no-llm", "--action", "rate")
    assert "100 done earlier" in again.stdout
    assert len(dump(tmp_path)["behaviors"]) == len(before["behaviors"]) + 1


@pytest.mark.parametrize(
    "other",
    [
        ["u,a,1000000000", "w,c,1000000005", "w,d,1000000009"],  # another log that begins like the first
        ["u,a,1000000000", "u,b,1000000005", "w,c,900000000"],  # a row appended that is older than the last
        ["u,a,1000000000"],  # rows taken away
    ],
)
def test_a_log_that_only_begins_like_another_is_refused(tmp_path: Path, other: list[str]) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user,item,time\nu,a,1000000000\nu,b,1000000005\n")
    interestream(tmp_path, "replay", log, "--no-llm")
    before = dump(tmp_path)
    log.write_text("\n".join(["user,item,time", *other]) + "\n")
    refused = interestream(tmp_path, "replay", log, "--no-llm")
    assert refused.returncode == 2
    assert "is not what it was" in refused.stderr
    assert dump(tmp_path) == before


def test_another_policy_on_the_same_store_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    write_log(log, 300)
    interestream(tmp_path, "replay", log, "--no-llm", "--gap", "12h")
    refused = interestream(tmp_path, "replay", log, "--no-llm", "--partition", 20, "--span", "week")
    assert refused.returncode == 2
    said = " ".join(refused.stderr.split())
    assert (
        "partitioned by --partition 50 --gap 12h --dedupe auto, not by --partition 20 --span week --dedupe auto" in said
    )
    assert "INTERESTREAM_INGEST_COUNT=50 INTERESTREAM_INGEST_GAP=12h INTERESTREAM_INGEST_SPAN=none" in said
    assert "{" not in said
    interestream(tmp_path, "replay", log, "--no-llm", "--partition", 50, "--gap", "12h")  # what it told to type


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv"], "there is no file nowhere.csv"),
        (["log.csv", "--strict"], "rating is not a number: 'five'"),
        (["log.csv", "--gap", "soon"], "'soon' is not a duration; write for example 30m, 12h, 7d or 2w"),
        (["log.csv", "--partition", "0"], "no rule is set"),
        (["log.csv", "--map", "user_id"], "is not FIELD=COLUMN"),
        (["log.csv", "--map", "users=user_id"], "there is no field 'users'"),
        (["log.csv", "--map", "at=when"], "there is no column 'when' (--map at=…); log.csv has: user_id, item_id"),
        (["log.csv", "--store", "nonsense"], "is not a store URL"),
        (["log.csv", "--store", "sqlite:///no/such/folder/x.db"], "the folder no/such/folder of the store"),
        (["log.csv", "--store", "sqlite:///log.csv"], "cannot open the store"),
    ],
)
def test_errors_are_one_sentence_with_place_and_remedy(tmp_path: Path, arguments: list[str], message: str) -> None:
    write_log(tmp_path / "log.csv", 300, shuffled=False)
    failed = interestream(tmp_path, "replay", *arguments, "--no-llm")
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
    assert message in failed.stderr


def test_catalogue_with_an_empty_key_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path / "log.csv", 30)
    (tmp_path / "items.csv").write_text("item_id,title\n,Nameless\n")
    failed = interestream(tmp_path, "replay", "log.csv", "--items", "items.csv", "--no-llm")
    assert failed.returncode == 2
    assert "items.csv, line 2: item_id is empty" in failed.stderr


def test_help_is_quick_to_import_and_needs_no_torch() -> None:
    code = (
        "import sys, streams.cli; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'pyarrow')))"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
