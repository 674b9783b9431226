"""`interestream learn` as a user meets it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from fusion.tables import representations, vectors
from interest.llm.scripted import Scripted
from interest.store.sql import insert_new, writing
from interest.store.tables import interests
from interest.types import Item
from interest.write.backfill import learn
from interest.write.backlog import Plan
from streams.cli import main
from streams.commands.learn import learn_with, nouns
from streams.resolve.llm import OpenLlm
from streams.store.invalidate import delete_derived
from tests.support.small_store import fill_two_partitions


@pytest.fixture
def filled(store: Engine) -> Engine:
    """One user with two partitions of six ratings."""
    catalogue = [Item(item_id="0", title="Babe", categories=("Drama",)), Item(item_id="1", categories=("Comedy",))]
    fill_two_partitions(store, catalogue)
    return store


@pytest.fixture
def interestream(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command line; the exit status and what it wrote to standard error."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["interestream", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        status = stopped.value.code
        return (status if isinstance(status, int) else 0), capsys.readouterr().err

    return run


def url(store: Engine) -> str:
    return store.url.render_as_string()


def test_statistics_need_no_model(filled: Engine, interestream: Callable[..., tuple[int, str]]) -> None:
    status, said = interestream("learn", "--llm", "statistics", "--store", url(filled), "--noun", "film,films")
    assert status == 0
    assert "learnt 2 partitions" in said
    assert "statistics 2" in said
    with filled.connect() as connection:
        texts = connection.execute(select(interests.c.summary)).scalars().all()
    assert all("6 films" in text for text in texts)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--llm", "/nowhere/model"], "interestream fetch"),
        (["--llm", "http://localhost:1/v1"], "--llm-model"),
        (["--llm", "statistics", "--prompt-version", "plain-0"], "json-1, json-2, knowledge-1, plain-1, plain-2"),
        (["--llm", "statistics", "--user", "nobody"], "'nobody'"),
    ],
)
def test_what_cannot_be_done_is_told_with_the_remedy(
    filled: Engine, interestream: Callable[..., tuple[int, str]], arguments: list[str], told: str
) -> None:
    status, said = interestream("learn", *arguments, "--store", url(filled))
    assert status == 2
    assert said.startswith("error: ")
    assert told in said
    assert "Traceback" not in said


def test_without_the_fetched_model_it_says_fetch(
    filled: Engine, interestream: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INTERESTREAM_CACHE", str(tmp_path / "empty"))
    status, said = interestream("learn", "--store", url(filled))
    assert (status, "interestream fetch" in said) == (2, True)


def test_vectors_of_a_replaced_text_go_with_it(filled: Engine) -> None:
    learn(filled, None)
    key = {"user_id": "u", "generation": 0, "index": 1}
    with writing(filled) as connection:
        insert_new(
            connection, vectors, [key | {"prompt_version": "plain-1", "encoder": "e", "summary": b"", "shift": None}]
        )
        insert_new(connection, representations, [key | {"artifact": "pooled:e", "vector": b""}])
    written = Scripted("This user enjoyed dramas and comedies.")
    learn(filled, written, model="m", plan=Plan(), replaced=delete_derived)
    with filled.connect() as connection:
        for table in (vectors, representations):
            assert connection.execute(select(func.count()).select_from(table)).scalar() == 0


def test_the_estimate_is_announced_and_its_calls_are_calls(filled: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    model = Scripted("This user enjoyed dramas and comedies.")
    learn_with(filled, OpenLlm(model, "m", "plain-1"), Plan())
    said = capsys.readouterr().err
    assert said.index("asking for 2 texts, to say what all will take") < said.index("2 partitions with m: about")
    assert f"{len(model.seen)} calls (0 more from the cache)" in said


def test_nouns() -> None:
    assert nouns("film,films") == ("film", "films")
    assert nouns("song") == ("song", "songs")
