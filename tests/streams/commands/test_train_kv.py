"""`interestream train kv`, and `--keys` for the models that read a sequence, as a user meets them."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from fusion.training.artifact import load_artifact
from interest.errors import InputError
from interest.store.sql import insert_new, item_row
from interest.store.tables import items
from tests.support.command_line import run
from tests.support.ctr_world import fill, random_rows
from tests.support.key_world import book

QUICK = ("--epochs", 1, "--interest", "no", "--split", "user")


@pytest.fixture
def url(store: Engine) -> str:
    with store.begin() as connection:
        insert_new(connection, items, [item_row(item) for item in book(40).values()])  # first come, first stored
    fill(store, random_rows(11))
    return store.url.render_as_string(hide_password=False)


def test_the_key_vector_model_is_trained_and_scores_whom_it_knows_and_whom_it_does_not(
    url: str, tmp_path: Path
) -> None:
    result = run("train", "kv", "--store", url, "--out", tmp_path / "kv", *QUICK)
    assert result.exit_code == 0, result.output
    assert "keys: item, categories, maker (" in result.output
    assert load_artifact(tmp_path / "kv").config.kind == "kv"
    result = run("score", tmp_path / "kv", "--store", url, "--user", "u1", "--items", "i1,i2,stranger")
    assert len(result.stdout.splitlines()) == 3
    result = run("score", tmp_path / "kv", "--store", url, "--user", "nobody", "--items", "i1,i2")
    assert len(result.stdout.splitlines()) == 2


def test_din_with_keys_of_a_named_attribute_learns_several_tasks(url: str, tmp_path: Path) -> None:
    tasks = ("--task", "like=value>=4", "--task", "stars=value")
    out = tmp_path / "din"
    result = run("train", "din", "--store", url, "--out", out, "--keys", "--key", "release_year", *tasks, *QUICK)
    assert result.exit_code == 0, result.output
    assert "keys: item, categories, release_year (7)" in result.output
    result = run("score", out, "--store", url, "--user", "u1", "--items", "i1,i2", "--blend", "like*2+stars")
    assert len(result.stdout.splitlines()) == 2


def test_srp4ctr_with_keys_is_trained(url: str, tmp_path: Path) -> None:
    out = tmp_path / "srp4ctr"
    result = run("train", "srp4ctr", "--store", url, "--out", out, "--keys", "--history", 10, *QUICK)
    assert result.exit_code == 0, result.output
    assert load_artifact(out).config.model.keys
    result = run("score", out, "--store", url, "--user", "u1", "--items", "i1,i2")
    assert len(result.stdout.splitlines()) == 2


def test_what_is_wrong_with_the_keys_is_told_in_a_sentence(url: str, tmp_path: Path) -> None:
    result = run("train", "kv", "--store", url, "--out", tmp_path / "kv", "--key", "director", *QUICK)
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == (
        "--key director: no item of the training part has this attribute; they have maker, players, release_year"
    )
    result = run("train", "din", "--store", url, "--out", tmp_path / "din", "--key", "maker", *QUICK)
    assert "--key maker: no keys are read; add --keys" in str(result.exception)
