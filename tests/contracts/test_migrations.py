"""A store of an earlier layout becomes one of this version's, with all of its rows, on SQLite and PostgreSQL."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from alembic import command, op
from alembic.config import Config
from sqlalchemy import Engine, Table, create_engine, event, insert, select, text

from fusion.tables import bank_vectors, representations, vectors
from interest.store.sql import insert_new, upsert, writing
from interest.store.tables import metadata
from streams.store.engine import _begin, _migrations, _tune_sqlite, open_store

ROWS = 3_000
RANDOM = random.Random(1)


def store_of(url: str, revision: str) -> Engine:
    """A store as the version had it whose newest migration this was."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _tune_sqlite)
        event.listen(engine, "begin", _begin)
    config = Config()
    config.set_main_option("script_location", str(_migrations()))
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return engine


def rows() -> dict[Table, list[dict[str, Any]]]:
    """Vectors as MiniLM and SmolLM2 make them: 384 float16 twice, 384 float32, 576 float16."""
    found: dict[Table, list[dict[str, Any]]] = {vectors: [], representations: [], bank_vectors: []}
    for number in RANDOM.sample(range(ROWS), ROWS):
        key = {"user_id": f"user-{number // 10}-é", "generation": 0, "index": number % 10}
        texts = {"summary": RANDOM.randbytes(768), "shift": RANDOM.randbytes(768) if number % 10 else None}
        found[vectors].append({**key, "prompt_version": "json-1", "encoder": "minilm-0123456789ab", **texts})
        vector = RANDOM.randbytes(1536)
        found[representations].append({**key, "artifact": "pooled:minilm-0123456789ab", "vector": vector})
        claim = {"owner": "me", "until": number / 7} if number % 5 == 0 else {"owner": None, "until": None}
        done = None if claim["owner"] else RANDOM.randbytes(1152)
        found[bank_vectors].append({"bank": "b", "key": number.to_bytes(16), "vector": done, **claim})
    return found


NEWER = ("common", "common_sums")  # columns that the first layouts had not


def content(engine: Engine, table: Table) -> list[dict[str, Any]]:
    query = select(*(column for column in table.c if column.name not in NEWER)).order_by(*table.primary_key)
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def size(engine: Engine, *, kind: str = "%") -> dict[str, int]:
    """Bytes of SQLite's pages by table, its index included."""
    query = text("""
        select m.tbl_name, coalesce(sum(p.pgsize), 0) from sqlite_master as m
        join dbstat as p on p.name = m.name and p.pagetype like :kind group by 1
    """)
    with engine.connect() as connection:
        return {name: int(count) for name, count in connection.execute(query, {"kind": kind})}


def test_vectors_keep_their_rows_and_keys_and_take_less_room(bare_url: str) -> None:
    before, written = store_of(bare_url, "0003"), rows()
    with writing(before) as connection:
        for table, some in written.items():
            connection.execute(insert(table), some)
    old = {table: content(before, table) for table in written}
    took = size(before) if before.dialect.name == "sqlite" else {}
    before.dispose()

    engine = open_store(bare_url)
    for table, some in written.items():
        assert content(engine, table) == old[table]
        assert len(old[table]) == ROWS
        with writing(engine) as connection:  # the keys are keys still
            changed = [{**row, "vector" if "vector" in row else "summary": b"new"} for row in some[:9]]
            insert_new(connection, table, changed)
        assert content(engine, table) == old[table]
        with writing(engine) as connection:
            upsert(connection, table, changed)
        assert len([row for row in content(engine, table) if b"new" in row.values()]) == 9
        assert len(content(engine, table)) == ROWS
    if engine.dialect.name == "sqlite":
        takes = size(engine)
        assert all(takes[table.name] < 0.6 * took[table.name] for table in written), (took, takes)
        assert not size(engine, kind="overflow")
    engine.dispose()


def test_the_database_has_rowids_where_the_tables_say_so(store: Engine) -> None:
    with store.connect() as connection:
        made = dict(connection.execute(text("select name, sql from sqlite_master where type = 'table'")).all())
    for table in metadata.sorted_tables:
        assert table.dialect_options["sqlite"]["with_rowid"] == ("WITHOUT ROWID" not in made[table.name]), table.name


def test_an_interrupted_migration_leaves_the_store_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    before, written = store_of(url, "0003"), rows()
    with writing(before) as connection:
        for table, some in written.items():
            connection.execute(insert(table), some)
    old = {table: content(before, table) for table in written}
    drop = op.drop_table

    def fail(name: str) -> None:
        drop(name)
        if name == "representations_before":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(op, "drop_table", fail)
        with pytest.raises(KeyboardInterrupt):
            open_store(url)
    assert {table: content(before, table) for table in written} == old
    before.dispose()
    engine = open_store(url)
    assert {table: content(engine, table) for table in written} == old
    engine.dispose()
