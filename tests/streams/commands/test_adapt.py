"""`interestream adapt` as a user meets it, and `forget` naming what learnt from the user."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from fusion.adaptation.record import read_record
from fusion.adaptation.register import learnt_from, note_adaptation, read_adaptations
from fusion.tables import adaptation_users, adaptations
from interest.errors import InputError
from interest.llm.protocol import Request
from interest.llm.scripted import Scripted
from interest.store.tables import item_descriptions
from interest.types import Item
from streams.resolve.teacher import open_teacher
from tests.support.adapting import chat_model
from tests.support.chat_server import ChatServer
from tests.support.command_line import output_of, run
from tests.support.ctr_world import fill, random_rows
from tests.support.tiny_llm import save_llm


@pytest.fixture
def url(store: Engine) -> str:
    fill(store, random_rows(5))
    return store.url.render_as_string(hide_password=False)


def test_adapt_then_forget(store: Engine, url: str, tmp_path: Path) -> None:
    base, out, items = chat_model(tmp_path / "base"), tmp_path / "adapted", tmp_path / "items.csv"
    items.write_text("item_id,title,genres,director\ni9,The Ninth,Drama|War,Ada Byron\ni1,The First,Drama,Eve Ray\n")
    given = ("--llm", base, "--store", url, "--items", items, "--out", out, "--quick", "--context", 256)
    said = output_of("adapt", *given, "--noun", "film,films", "--before", "1970-05-01")
    assert "director" in said  # the table of what was understood
    assert "2 items from items.csv" in said
    assert "perplexity of held-out documents" in said
    record = read_record(out)
    assert record is not None
    assert f"adapted model {record.id} in {out}" in said
    assert record.cut == 120 * 86_400.0
    with store.connect() as connection:
        users = set(connection.scalars(select(adaptation_users.c.user_id)))
        assert connection.execute(select(adaptations)).one().users == len(users) == record.users
    other = sorted({f"u{number}" for number in range(30)} - users)
    assert str(out) in output_of("forget", sorted(users)[0], "--yes", "--store", url).replace("\n", "")
    if other:
        assert str(out) not in output_of("forget", other[0], "--yes", "--store", url)
    assert f"users: {out.resolve()} (1 forgotten since: make it anew)" in output_of("stats", "--store", url)
    again = run("adapt", *given, "--noun", "film,films", "--before", "1970-05-01")
    assert "users were forgotten; give another folder" in str(again.exception)
    with store.connect() as connection:
        row = connection.execute(select(adaptations)).one()
        assert (row.users, row.forgotten, row.folder) == (len(users), 1, str(out.resolve()))
        assert sorted(users)[0] not in set(connection.scalars(select(adaptation_users.c.user_id)))


def test_refusals(store: Engine, tmp_path: Path) -> None:
    url, out = store.url.render_as_string(hide_password=False), tmp_path / "out"
    base = chat_model(tmp_path / "base")
    none = run("adapt", "--llm", tmp_path / "nowhere", "--store", url, "--out", out)
    assert isinstance(none.exception, InputError)
    assert "no language model" in str(none.exception)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "plan.json").write_text("{}")
    begun = run("learn", "--llm", tmp_path / "begun", "--store", url)
    assert "begun is not finished; the same `interestream adapt --out" in str(begun.exception)
    empty = run("adapt", "--llm", base, "--store", url, "--out", out)
    assert "there is no catalogue: give the items with --items" in str(empty.exception)
    mute = run("adapt", "--llm", save_llm(tmp_path / "mute"), "--store", url, "--out", out)
    assert "no chat template" in str(mute.exception)
    wrong = run("adapt", "--llm", base, "--store", url, "--out", out, "--mix", "films=1")
    assert "kinds are item, related" in str(wrong.exception)
    assert not out.exists()


def test_what_is_wrong_with_files_is_said_before_the_log_is_read(
    store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("the log was read")

    monkeypatch.setattr("fusion.features.log.read_log", read)
    url = store.url.render_as_string(hide_password=False)
    job = ("adapt", "--llm", chat_model(tmp_path / "base"), "--store", url, "--out")
    (tmp_path / "notes.txt").touch()
    assert "notes.txt is a file; give a folder" in str(run(*job, tmp_path / "notes.txt").exception)
    missing = run(*job, tmp_path / "out", "--items", tmp_path / "films.csv").exception
    assert isinstance(missing, InputError)
    assert "films.csv" in str(missing)
    assert "the log was read" in str(run(*job, tmp_path / "out").exception)


def test_whoever_was_forgotten_meanwhile_is_not_noted_again(store: Engine, url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a user was forgotten after"):
        note_adaptation(store, "a1", tmp_path, "base", 1.0, ["u1", "u2", "gone"])
    with store.connect() as connection:
        assert read_adaptations(connection) == []
        assert not list(connection.execute(select(adaptation_users)))
    note_adaptation(store, "a1", tmp_path, "base", 1.0, ["u1", "u2"])
    note_adaptation(store, "a2", tmp_path, "base", 1.0, ["u2"])  # another model in the same folder
    with store.connect() as connection:
        assert [(one.id, one.users) for one in read_adaptations(connection)] == [("a2", 1)]
        assert [len(learnt_from(connection, user)) for user in ("u1", "u2")] == [0, 1]
    note_adaptation(store, "a2", tmp_path / "again", "base", 1.0, ["u1"])  # by the same settings, elsewhere
    with store.connect() as connection:
        found = {user: [(one.id, one.folder) for one in learnt_from(connection, user)] for user in ("u1", "u2")}
    assert found == {"u1": [("a2", str(tmp_path / "again"))], "u2": [("a2", str(tmp_path))]}


def test_the_teacher_is_a_server_whose_answers_are_cached(
    store: Engine, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERESTREAM_FUSION_ENCODER", str(tmp_path))
    wrong = run("adapt", "--store", url, "--out", tmp_path / "a", "--llm", chat_model(tmp_path / "b"), "--teacher", "x")
    assert "give the URL" in str(wrong.exception)
    known = [Item(item_id="i1", title="The First"), Item(item_id="i2", title="The Second"), Item(item_id="i3")]

    def tells(request: Request) -> str:
        declines = "Second" in request.messages[-1].content
        return "I'm sorry, I cannot." if declines else "A film that the teacher knows."

    with (
        ChatServer(Scripted(tells)) as server,
        open_teacher(store, f"{server.url}/v1", "big", 9, ("film", "films")) as teacher,
    ):
        assert teacher is not None
        assert teacher.ask(known) == {"i1": "A film that the teacher knows."}
        assert teacher.ask(known) == {"i1": "A film that the teacher knows."}
        assert len(server.bodies) == 2
        assert teacher.key == "big/9"
    with store.connect() as connection:
        assert not connection.execute(select(item_descriptions)).all()  # adapt describes nothing
