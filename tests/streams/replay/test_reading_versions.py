"""A log that an earlier version began to read goes on where today's rules read the same, else it is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, insert, select, update

from interest.errors import InputError
from streams.files.old_rules import first_row_then
from streams.files.rows import BehaviorLog, Digest
from streams.replay.embedded import replay, source_name
from streams.store.engine import open_store
from streams.store.tables import offsets
from streams.ubsp.policy import Policy

HEADER = "user_id,item_id,rating,timestamp\n"
PLAIN = [f"u{n % 3},{n},4,{1_600_000_000 + n}" for n in range(50)]


@pytest.fixture
def store(tmp_path: Path) -> Engine:
    return open_store(f"sqlite:///{tmp_path / 's.db'}")


def log_of(path: Path, lines: list[str], header: str = HEADER) -> BehaviorLog:
    path.write_text(header + "\n".join(lines) + "\n")
    return BehaviorLog(path, {})


def digest_then(log: BehaviorLog, rows: int) -> str:
    """The digest of the first rows as it was before versions: users, items and times."""
    first = next(log.chunks())
    parts = [
        ("\0".join(first.user_id[:rows]) + "\0").encode(),
        ("\0".join(first.item_id[:rows]) + "\0").encode(),
        np.ascontiguousarray(first.at[:rows]).tobytes(),
    ]
    digests = b"".join(hashlib.blake2b(part, digest_size=16).digest() for part in parts)
    return hashlib.blake2b(digests, digest_size=16).hexdigest()


def test_a_log_half_replayed_by_the_old_rules_goes_on_where_both_read_the_same(store: Engine, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    half = replay(store, log_of(path, PLAIN[:25]), Policy())
    with store.begin() as connection:
        connection.execute(update(offsets).values(digest=digest_then(log_of(path, PLAIN[:25]), 25)))
    whole = replay(store, log_of(path, PLAIN), Policy())
    assert (half.position.accepted, whole.resumed_at, whole.position.accepted) == (25, 25, 50)
    assert whole.position.digest.startswith("2:")
    again = replay(store, log_of(path, PLAIN), Policy())
    assert again.position == whole.position


@pytest.mark.parametrize(
    ("header", "lines", "then"),
    [
        (HEADER, ["u0, 1,4,1600000000", "u0, 2,4,1600000001"], "('u0', ' 1', 'rate', 1600000000.0)"),
        (HEADER, ["7.0,1,4,1600000000"], "('7.0', '1', 'rate', 1600000000.0)"),
        (HEADER, ["NULL,1,4,1600000000", "u,1,4,1600000001"], "('NULL', '1', 'rate', 1600000000.0)"),
        ("user_id,item_id,date\n", ["u,1,20220408"], "('u', '1', 'view', 20220408.0)"),
        ("user_id,item_id,timestamp,feedback_type\n", ["u,1,1600000000,star"], "('u', '1', 'view', 1600000000.0)"),
    ],
)
def test_a_log_that_the_old_rules_read_otherwise_is_refused_in_a_sentence(
    store: Engine, tmp_path: Path, header: str, lines: list[str], then: str
) -> None:
    log = log_of(tmp_path / "log.csv", lines, header)
    assert first_row_then(log) == then
    name = f"log:{hashlib.blake2b(then.encode(), digest_size=8).hexdigest()}"
    row = {"source": name, "partition": 0, "offset": 1, "digest": "0" * 32, "accepted": 1}
    with store.begin() as connection:
        connection.execute(insert(offsets).values(**row, late=0, duplicates=0, rejected=0))
    with pytest.raises(InputError, match=r"up to row 1 by an earlier version, .* another --store"):
        replay(store, log, Policy())
    with store.connect() as connection:
        assert len(connection.execute(select(offsets)).all()) == 1


def test_a_plain_log_keeps_its_name(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log.csv", PLAIN)
    assert first_row_then(log) == log.first_row()
    assert source_name(log) == "log:" + hashlib.blake2b(log.first_row().encode(), digest_size=8).hexdigest()


@pytest.mark.parametrize("changed", ["u0,0,5,1600000000", "u0,0,,1600000000"])
def test_a_value_that_changed_is_another_log(store: Engine, tmp_path: Path, changed: str) -> None:
    replay(store, log_of(tmp_path / "log.csv", PLAIN), Policy())
    with pytest.raises(InputError, match="is not what it was"):
        replay(store, log_of(tmp_path / "log.csv", [changed, *PLAIN[1:]]), Policy())


def test_the_digest_knows_every_column_and_no_chunk(tmp_path: Path) -> None:
    columns = ["user_id", "item_id", "action", "at", "value", "scene", "event_id"]
    row = ["u", "i", "play", "1600000001", "3", "home", "e"]
    seen = set()
    for place in range(len(columns) + 1):
        cells = [cell + ("9" if place == at else "") for at, cell in enumerate(row)]
        if place == 3:
            cells[3] = "1600000002"
        path = tmp_path / f"{place}.csv"
        path.write_text(",".join(columns) + "\n" + ",".join(cells) + "\nu,j,play,1600000003,,,\n")
        rows = next(BehaviorLog(path, {}).chunks())
        whole, parts = Digest(), Digest()
        whole.add(rows, 0, 2)
        parts.add(rows, 0, 1)
        parts.add(rows, 1, 2)
        assert whole.text() == parts.text()
        seen.add(whole.text())
    assert len(seen) == len(columns) + 1
