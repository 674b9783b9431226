"""Walks over users fill the behaviour bank: in pieces, for some users only, with users forgotten in between."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, update
from typer.testing import CliRunner

from fusion.bank.vectors import Claims, register
from fusion.encoders.split_llm import LowerLayers
from fusion.tables import bank_vectors
from streams.cli import app
from streams.resolve import bank_fill as filling
from streams.resolve.bank_fill import FillPass, accepted_counts
from streams.store.engine import open_store
from streams.store.forget import forget
from tests.support.bank_world import (
    EACH,
    USERS,
    InterruptedEncoder,
    add_behaviors,
    computed,
    content,
    fill_store,
    is_full,
    newest,
    run_pass,
    texts_of,
    vectors,
    watermarks,
)

pytestmark = pytest.mark.model


@pytest.mark.parametrize(("users", "most"), [(5000, 1000), (4, 5), (1, 100), (6, 12)])
def test_a_walk_fills_everything_once_whatever_its_pieces(
    engine: Engine, lower: LowerLayers, monkeypatch: pytest.MonkeyPatch, users: int, most: int
) -> None:
    monkeypatch.setattr(filling, "USERS", users)
    monkeypatch.setattr(filling, "BEHAVIORS", most)
    fill_store(engine)
    fill_pass = FillPass(engine, lower)
    assert sum(run_pass(fill_pass)) == fill_pass.behaviors == USERS * EACH
    assert fill_pass.is_complete
    assert is_full(engine, lower.recipe)
    assert fill_pass.computed == computed(engine) == len(texts_of(engine))
    again = FillPass(engine, lower)
    assert set(run_pass(again)) == {0}
    assert again.asked == 0
    add_behaviors(engine, "u2", EACH, 2.2, 3.3)
    add_behaviors(engine, "new", 0, 4.4)
    fill_pass = FillPass(engine, lower)
    assert sum(run_pass(fill_pass)) == 3
    assert fill_pass.computed == 3  # the items' own texts are there
    assert is_full(engine, lower.recipe)


def test_other_workers_users_are_left_to_them(store: Engine, lower: LowerLayers) -> None:
    fill_store(store)
    mine = {"u1", "u4"}
    run_pass(FillPass(store, lower, lambda user: user in mine))
    assert watermarks(store, lower.recipe).keys() == mine
    run_pass(FillPass(store, lower, lambda user: user not in mine))
    assert is_full(store, lower.recipe)
    assert computed(store) == len(texts_of(store))


def test_texts_that_another_has_claimed_are_not_marked_until_they_are_there(store: Engine, lower: LowerLayers) -> None:
    fill_store(store)
    register(store, lower.recipe, lower.width)
    claimed = lower.recipe.keys(sorted(texts_of(store))[:5])
    Claims(store, lower.recipe, lower.width, "killed").take(claimed)
    fill_pass = FillPass(store, lower)
    run_pass(fill_pass)
    assert not fill_pass.is_complete
    assert watermarks(store, lower.recipe) == {}
    assert {key for key, vector in vectors(store, lower.recipe).items() if vector is None} == set(claimed)
    with store.begin() as connection:  # a minute later
        connection.execute(update(bank_vectors).where(bank_vectors.c.vector.is_(None)).values(until=0.0))
    fill_pass = FillPass(store, lower)
    run_pass(fill_pass)
    assert fill_pass.is_complete
    assert fill_pass.computed == 5
    assert is_full(store, lower.recipe)


def test_a_user_forgotten_meanwhile_leaves_no_mark(engine: Engine, lower: LowerLayers) -> None:
    fill_store(engine)
    fill_pass = FillPass(engine, InterruptedEncoder(lower, lambda: forget(engine, "u1")))
    run_pass(fill_pass)
    assert watermarks(engine, lower.recipe) == newest(engine)
    assert "u1" not in newest(engine)
    assert forget(engine, "u2")["bank_marks"] == 1
    add_behaviors(engine, "u1", 0, 2.2)  # known again, by another behaviour
    run_pass(FillPass(engine, lower))
    assert watermarks(engine, lower.recipe) == newest(engine)
    assert set(lower.recipe.keys(sorted(texts_of(engine)))) <= vectors(engine, lower.recipe).keys()


def test_what_came_in_is_told_by_the_counts_of_ingest(store: Engine) -> None:
    seen = []
    for step in range(3):
        with store.connect() as connection:
            seen.append(accepted_counts(connection))
        if step == 1:
            add_behaviors(store, "u1", 0, 1.0)
    assert seen[0] == seen[1] == ()
    assert seen[2] == (("topic:behaviors", 0, 1),)


def test_fuse_fills_the_bank_where_an_llm_is_set(
    llm: Path, lower: LowerLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder_folder: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'embedded.db'}"
    store = open_store(url)
    fill_store(store)

    def fused() -> str:
        result = CliRunner().invoke(app, ["fuse", "--store", url, "--encoder", str(encoder_folder)])
        assert result.exit_code == 0, result.output or result.exception
        return result.stdout.splitlines()[-1]

    assert "bank" not in fused()
    monkeypatch.setenv("INTERESTREAM_BANK_LLM", str(llm))
    monkeypatch.setenv("INTERESTREAM_BANK_CUT", "2")
    count = len(texts_of(store))
    assert fused() == f"72 new behaviours; {count} of their texts computed for bank {lower.recipe.id}"
    assert is_full(store, lower.recipe)
    before = content(store, lower.recipe)
    monkeypatch.setattr("fusion.encoders.split_llm.open_lower_layers", None)  # nothing is new: no LLM is loaded
    assert fused() == f"0 new behaviours; 0 of their texts computed for bank {lower.recipe.id}"
    assert content(store, lower.recipe) == before
