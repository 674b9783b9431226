"""The store's contract, on SQLite and on a real PostgreSQL server that the test starts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select, text

from interest.errors import StoreError
from interest.store.sql import insert_new, read_items, read_users, upsert, writing
from interest.store.tables import behaviors, items, partitions
from interest.types import Behavior
from streams.files.catalogue import ItemFile, UserFile, load_items, load_users
from streams.files.rows import BehaviorLog
from streams.replay.embedded import replay
from streams.store.engine import open_store
from streams.ubsp.ingest import Ingest, Position
from streams.ubsp.policy import Policy, Scenes


def write_log(path: Path, rows: int = 3000) -> Path:
    chosen = random.Random(3)
    lines = [
        f"u{chosen.randrange(30)},Ü{chosen.randrange(90)},{chosen.randrange(1, 6)},{10**9 + n // 2},{'ab'[n % 2]}"
        for n in range(rows)
    ]
    chosen.shuffle(lines)
    path.write_text("\n".join(["user,item,rating,time,scene", *lines]) + "\n")
    return path


def content(engine: Engine) -> list[list[Any]]:
    with engine.connect() as connection:
        return [sorted(tuple(row) for row in connection.execute(select(table))) for table in (behaviors, partitions)]


def test_replay_gives_the_same_rows_on_every_database(url: str, tmp_path: Path) -> None:
    log = BehaviorLog(write_log(tmp_path / "log.csv"), {})
    policy = Policy(count=20, gap_s=600.0)
    reference = open_store(f"sqlite:///{tmp_path / 'reference.db'}")
    replay(reference, log, policy)
    engine = open_store(url)
    replayed = replay(engine, log, policy)
    assert replayed.position.accepted > 2500
    assert content(engine) == content(reference)
    assert replay(engine, log, policy).position == replayed.position
    for used in (engine, reference):
        used.dispose()


@pytest.mark.parametrize("scenes", list(Scenes))
def test_a_cold_start_restores_every_cache(url: str, tmp_path: Path, scenes: Scenes) -> None:
    chunks = [rows.behaviors() for rows in BehaviorLog(write_log(tmp_path / "log.csv"), {}).chunks()]
    log = [behavior for chunk in chunks for behavior in chunk]
    engine, reference = open_store(url), open_store(f"sqlite:///{tmp_path / 'reference.db'}")
    for store, step in ((engine, 170), (reference, len(log))):
        position = Position()
        for start in range(0, len(log), step):
            cold = Ingest(store, Policy(count=7, scenes=scenes))
            assert cold.position("log") == position
            position = cold.commit(cold.fold(log[start : start + step]), "log", position, start + step, rejected=0)
    assert content(engine) == content(reference)
    for used in (engine, reference):
        used.dispose()


def one(user: str, at: float) -> Behavior:
    return Behavior(user_id=user, item_id="1", action="view", at=at)


def test_a_second_writer_is_fenced_and_writes_nothing(url: str) -> None:
    engine = open_store(url)
    first, zombie = Ingest(engine, Policy()), Ingest(engine, Policy())
    start = first.position("topic")
    first.commit(first.fold([one("ann", 1.0)]), "topic", start, 1, rejected=0)
    with pytest.raises(StoreError, match="read on by another process"):
        zombie.commit(zombie.fold([one("bob", 2.0)]), "topic", start, 1, rejected=0)
    assert [row[0] for row in content(engine)[0]] == ["ann"]
    other = Ingest(engine, Policy())
    folded = other.fold([one("ann", 3.0)])
    moved = first.commit(first.fold([one("ann", 2.0)]), "topic", first.position("topic"), 2, rejected=0)
    assert moved.accepted == 2
    with pytest.raises(StoreError, match="writes behaviours of the same users"):
        other.commit(folded, "another topic", Position(), 1, rejected=0)
    assert len(content(engine)[0]) == 2
    engine.dispose()


def test_catalogues_are_replaced_by_key(url: str, tmp_path: Path) -> None:
    engine = open_store(url)
    (tmp_path / "items.csv").write_text(
        "movieId,title,genres,year\n1,Old,Drama,1990\n2,Keeps,War|Drama,\n1,New,Comedy,1991\n"
    )
    (tmp_path / "users.csv").write_text("user_id,age\nann,30\n")
    assert load_items(engine, ItemFile(tmp_path / "items.csv", {})) == 2
    assert load_users(engine, UserFile(tmp_path / "users.csv", {})) == 1
    with engine.connect() as connection:
        found = read_items(connection)
        assert (found["1"].title, found["1"].categories, found["1"].attributes) == (
            "New",
            ("Comedy",),
            {"year": "1991"},
        )
        assert found["2"].categories == ("War", "Drama")
        assert read_users(connection, ["ann", "bob"])["ann"].attributes == {"age": "30"}
    row = {"item_id": "1", "title": "Newest", "categories": "[]", "attributes": "{}"}
    with writing(engine) as connection:
        insert_new(connection, items, [row])
    with engine.connect() as connection:
        assert read_items(connection, ["1"])["1"].title == "New"
    with writing(engine) as connection:
        upsert(connection, items, [row])
    with engine.connect() as connection:
        assert read_items(connection, ["1"])["1"].title == "Newest"
    engine.dispose()


def test_a_store_of_a_newer_version_is_refused(url: str) -> None:
    engine = open_store(url)
    with writing(engine) as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StoreError, match="install the newer interestream"):
        open_store(url)
