"""Full and read-only disks: one sentence, and the same command goes on when there is room."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from interest.errors import InputError
from interest.store.sql import writing
from streams.files.rejects import RejectedRow, RejectWriter
from streams.files.rows import BehaviorLog
from streams.replay.embedded import replay
from streams.store.disk import disk_problem
from streams.store.engine import open_store
from streams.ubsp.policy import Policy
from tests.support.importing import Folder


def test_a_store_on_a_full_disk_says_so_and_the_same_replay_goes_on(tmp_path: Path) -> None:
    lines = [f"u{n % 50},{n},{1_600_000_000 + n}" for n in range(60_000)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines, ""]))
    log = BehaviorLog(tmp_path / "log.csv", {})
    full = open_store(f"sqlite:///{tmp_path / 's.db'}")

    @event.listens_for(full, "begin")
    def little_room(connection: object) -> None:
        connection.exec_driver_sql("pragma max_page_count=500")  # type: ignore[attr-defined]

    with pytest.raises(OperationalError) as raised:
        replay(full, log, Policy())
    assert (disk_problem(raised.value) or "").startswith("the disk of the store is full")
    assert "it goes on" in (disk_problem(raised.value) or "")
    full.dispose()

    roomy = open_store(f"sqlite:///{tmp_path / 's.db'}")
    replayed = replay(roomy, log, Policy())
    assert replayed.resumed_at > 0
    assert replayed.position.accepted == 60_000


def test_a_store_that_may_not_be_written_says_so(tmp_path: Path) -> None:
    engine = open_store(f"sqlite:///{tmp_path / 's.db'}")
    with pytest.raises(OperationalError) as other, writing(engine) as connection:
        connection.execute(text("delete from nothing"))
    assert disk_problem(other.value) is None
    with engine.connect() as connection:
        connection.exec_driver_sql("pragma query_only=1")
        with pytest.raises(OperationalError) as raised:
            connection.execute(text("delete from users"))
    assert "the store may not be written" in (disk_problem(raised.value) or "")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full for /data/x"),
        (errno.EDQUOT, "the disk is full for /data/x"),
        (errno.EACCES, "/data/x may not be written here"),
        (errno.EROFS, "/data/x may not be written here"),
        (errno.ENOENT, None),
    ],
)
def test_errors_of_files(number: int, words: str | None) -> None:
    said = disk_problem(OSError(number, os.strerror(number), "/data/x"))
    assert said is None if words is None else (said or "").startswith(words)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_rejected_rows_on_a_full_disk_name_the_remedy(tmp_path: Path) -> None:
    writer = RejectWriter(tmp_path / "log.csv", file=Path("/dev/full"))
    with pytest.raises(InputError, match=r"No space left .* make room .* --rejected FILE"):
        writer.add([RejectedRow(file="log.csv", line=2, reason="r", row={})])


def test_no_file_is_touched_beside_a_clean_log(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    log = folder.write("logs/log.csv", "user_id,item_id,timestamp\nu,1,1600000001\n")
    before = (tmp_path / "logs").stat().st_mtime_ns
    assert folder.replay(log).code == 0
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["log.csv"]
    assert (tmp_path / "logs").stat().st_mtime_ns == before
