"""`forget`: no row, and no byte, of a user stays; everyone else's do."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text, create_engine, inspect, select, text
from typer.testing import CliRunner

from interest.errors import InputError, StoreError
from interest.store.sql import insert_new, writing
from interest.store.tables import behaviors, metadata
from streams.cli import app
from streams.store import users
from streams.store.forget import forget
from tests.support.small_store import ANN, SECRET, behavior, fill


@pytest.fixture
def small(store):
    fill(store)
    return store


def rows(store) -> dict[str, list[str]]:
    """Every row of every table in the database, whether the code knows the table or not."""
    with store.connect() as connection:
        return {
            name: [repr(tuple(row)) for row in connection.execute(text(f'select * from "{name}"'))]
            for name in inspect(connection).get_table_names()
        }


def files(store) -> bytes:
    return b"".join(path.read_bytes() for path in Path(store.url.database).parent.glob("store.db*"))


def test_no_table_names_the_user_and_the_others_stay(small):
    before = rows(small)
    deleted = forget(small, ANN)
    after = rows(small)
    assert not [row for table in after.values() for row in table if ANN in row or SECRET in row]
    assert after.pop("counters") == ["('forgets', 1)"]  # by which a running worker drops what it remembers
    for name, kept in before.items():
        if name == "counters":
            continue
        assert after[name] == [row for row in kept if ANN not in row]
        assert deleted.get(name, 0) == len(kept) - len(after[name])
    assert {name for name, count in deleted.items() if count} == {
        "behaviors", "partitions", "interests", "answers", "users", "vectors", "representations",
    }  # fmt: skip
    assert any("bob" in row for row in after["behaviors"])
    assert after["items"]
    assert after["offsets"]


def test_no_byte_of_the_user_is_left_in_the_files(small):
    with writing(small) as connection:  # enough rows around it to split pages, which leaves stale copies
        for name in [f"user{number:04}" for number in range(300)]:
            insert_new(connection, behaviors, [behavior(name, seq) for seq in range(10)])
        insert_new(connection, behaviors, [behavior(ANN, seq) for seq in range(14, 900)])
    assert ANN.encode() in files(small)
    assert SECRET.encode() in files(small)
    forget(small, ANN)
    assert ANN.encode() not in files(small)
    assert SECRET.encode() not in files(small)
    assert b"user0007" in files(small)


def test_every_table_with_a_user_is_found(small, monkeypatch):
    """A table that a later layer adds is not missed; and every user_id in the database is one the code knows."""
    with small.connect() as connection:
        database = inspect(connection)
        with_user = {
            name
            for name in database.get_table_names()
            if "user_id" in {column["name"] for column in database.get_columns(name)}
        }
    assert {table.name for table in users.user_tables()} == with_user
    wider = MetaData()
    for table in metadata.sorted_tables:
        table.to_metadata(wider)
    later = Table("later", wider, Column("user_id", Text), Column("n", Integer))
    later.create(small)
    with writing(small) as connection:
        connection.execute(later.insert(), [{"user_id": ANN, "n": 1}, {"user_id": "bob", "n": 2}])
    monkeypatch.setattr(users, "metadata", wider)
    assert forget(small, ANN)["later"] == 1
    with small.connect() as connection:
        assert connection.execute(select(later)).all() == [("bob", 2)]


def test_an_unknown_user_is_an_error_and_nothing_changes(small):
    before = rows(small)
    with pytest.raises(InputError, match=f"no user 'ann'.*{ANN}"):
        forget(small, "ann")
    assert rows(small) == before
    forget(small, ANN)
    with pytest.raises(InputError, match=f"no user '{ANN}'"):
        forget(small, ANN)


def test_a_reader_in_the_way_is_named_and_erase_finishes_the_work(small):
    reader = create_engine(small.url)
    with reader.connect() as connection:
        connection.exec_driver_sql("begin")
        connection.execute(select(behaviors).limit(1)).all()
        with small.connect() as own:
            own.exec_driver_sql("pragma busy_timeout=50")  # the pooled connection that forget will use
            own.rollback()
        with pytest.raises(StoreError, match=r"the rows are deleted.*forget --erase"):
            forget(small, ANN)
    reader.dispose()
    assert ANN not in str(rows(small))
    run = CliRunner().invoke(app, ["forget", "--erase", "--store", small.url.render_as_string()])
    assert run.exit_code == 0, run.output
    assert ANN.encode() not in files(small)


def test_the_command_asks_first(small):
    url = small.url.render_as_string()
    run = CliRunner().invoke(app, ["forget", ANN, "--store", url], input="n\n")
    assert run.exit_code == 1
    assert ANN in str(rows(small))
    run = CliRunner().invoke(app, ["forget", ANN, "--yes", "--store", url])
    assert run.exit_code == 0, run.output
    assert "behaviors               14 rows deleted" in run.output
    assert ANN not in str(rows(small))


def test_what_to_forget_must_be_said(small):
    run = CliRunner().invoke(app, ["forget", "--store", small.url.render_as_string()])
    assert isinstance(run.exception, InputError)


@pytest.mark.parametrize("command", [["forget", "--yes"], ["timeline"], ["subscribe", "--user"]])
def test_an_id_that_is_not_utf8_is_an_error_in_a_sentence(small, command):
    where = [] if command[0] == "subscribe" else ["--store", small.url.render_as_string()]
    run = CliRunner().invoke(app, [*command, "caf\udce9", *where])
    assert isinstance(run.exception, InputError)
    assert "is not UTF-8" in str(run.exception)
