"""`interestream pretrain fgbert`, `train srp4ctr` and `score` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, Engine, update
from typer.testing import Result

from fusion.serving.score import Scorer, Scores
from fusion.training.artifact import load_artifact
from fusion.training.pretrained import load_pretrained
from interest.errors import ArtifactError, InputError
from interest.store.sql import insert_new, item_row
from interest.store.tables import behaviors, items
from interest.types import Item
from tests.support.command_line import run
from tests.support.ctr_world import Row, fill, random_rows


@pytest.fixture
def url(store: Engine) -> str:
    fill(store, random_rows(11), interests=True)
    return store.url.render_as_string(hide_password=False)


SIZES = ("--history", 10, "--pack", 5, "--epochs", 1)


def pretrain(url: str, out: Path, *more: object) -> Result:
    return run("pretrain", "fgbert", "--store", url, "--out", out, *SIZES, "--width", 16, *more)


def test_from_pretraining_to_scores(url: str, tmp_path: Path) -> None:
    result = pretrain(url, tmp_path / "fgbert")
    assert result.exit_code == 0, result.output
    held = load_pretrained(tmp_path / "fgbert")
    assert f"pre-trained encoder {held.id}" in result.output
    assert "validation loss" in result.stderr
    assert "HR@10" in result.stderr
    own = ("--store", url, *SIZES)
    result = run(
        "train", "srp4ctr", "--pretrained", tmp_path / "fgbert", "--interest", "yes", "--out", tmp_path / "srp", *own
    )
    assert result.exit_code == 0, result.output
    assert "tail auc" in result.output
    assert "150 representations" in result.output
    assert load_artifact(tmp_path / "srp").config.model.pretrained == held.id
    result = run("score", tmp_path / "srp", "--store", url, "--user", "u1", "--items", "i1,i2,stranger", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert {line["item_id"] for line in lines} == {"i1", "i2", "stranger"}
    assert [line["score"] for line in lines] == sorted((line["score"] for line in lines), reverse=True)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("item_id,user_id\ni2,u1\nstranger,nobody\n")
    result = run("score", tmp_path / "srp", "--store", url, "--pairs", pairs)
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    by_item = {line["item_id"]: line["score"] for line in lines}
    assert float(rows[0][2]) == pytest.approx(by_item["i2"], abs=1e-4)


def test_pairs_are_scored_user_by_user_and_printed_in_the_files_order(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that goes item by item: every user's side is made once though the users do not fit into one part."""
    result = run("train", "srp4ctr", "--store", url, "--out", tmp_path / "srp", *SIZES)
    assert result.exit_code == 0, result.output
    named = [(f"u{user}", f"i{item}") for item in range(4) for user in range(9)]
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("user_id,item_id\n" + "".join(f"{user},{item}\n" for user, item in named))
    scored = ("score", tmp_path / "srp", "--store", url, "--pairs", pairs, "--json")
    whole = run(*scored).stdout
    assert [(line["user_id"], line["item_id"]) for line in map(json.loads, whole.splitlines())] == named
    asked: list[int] = []
    score = Scorer.scores

    def counted(self: Scorer, connection: Connection, pairs: list[tuple[str, str]], *more: Any) -> Scores:
        asked.append(len({user for user, _ in pairs}))
        return score(self, connection, pairs, *more)

    monkeypatch.setattr(Scorer, "scores", counted)
    monkeypatch.setattr("fusion.serving.requests.PAGE", 8)
    in_parts = run(*scored).stdout
    assert asked == [2, 2, 2, 2, 1]
    for left, right in zip(whole.splitlines(), in_parts.splitlines(), strict=True):
        assert json.loads(left) == pytest.approx(json.loads(right), abs=2e-6)


def test_an_ablation_without_pretraining(url: str, tmp_path: Path) -> None:
    result = run("train", "srp4ctr", "--form", "mp", "--store", url, "--out", tmp_path / "mp", *SIZES)
    assert result.exit_code == 0, result.output
    model = load_artifact(tmp_path / "mp").config.model
    assert (model.cross, model.queries, model.pooled, model.pretrained) == (False, 0, True, "")


def test_longer_histories_than_in_pre_training_may_be_read(url: str, tmp_path: Path) -> None:
    assert pretrain(url, tmp_path / "fgbert").exit_code == 0
    own = ("train", "srp4ctr", "--store", url, "--out", tmp_path / "srp", "--pretrained", tmp_path / "fgbert")
    result = run(*own, "--history", 20, "--pack", 5, "--epochs", 1)
    assert result.exit_code == 0, result.output
    model = load_artifact(tmp_path / "srp").config.model
    assert (model.encoder.positions, model.lifelong, model.value_task) == (24, True, 0.5)


def test_a_store_that_has_grown_is_trained_on_from_its_own_pre_training(store: Engine, tmp_path: Path) -> None:
    """Values that are all different have quantiles for buckets, which move; ids, categories and actions are new too."""
    rng = np.random.default_rng(2)
    rows: list[Row] = [(user, item, at, value + rng.uniform(-0.4, 0.4)) for user, item, at, value in random_rows(11)]
    fill(store, [row for n, row in enumerate(rows) if n % 25 < 15])
    url = store.url.render_as_string(hide_password=False)
    assert pretrain(url, tmp_path / "fgbert", "--split", "user").exit_code == 0
    fill(store, rows)
    with store.begin() as connection:
        connection.execute(update(behaviors).where(behaviors.c.seq == 17).values(item_id="brand-new"))
        connection.execute(update(behaviors).where(behaviors.c.seq == 16).values(action="review"))
        insert_new(connection, items, [item_row(Item(item_id="brand-new", title="New", categories=("Western",)))])
    own = ("--store", url, *SIZES, "--split", "user")
    result = run("train", "srp4ctr", "--pretrained", tmp_path / "fgbert", "--out", tmp_path / "srp", *own)
    assert result.exit_code == 0, result.exception
    held, spec = load_pretrained(tmp_path / "fgbert"), load_artifact(tmp_path / "srp").spec
    assert len(spec.value_edges) == 9
    assert spec.value_edges == held.spec.value_edges
    for name, before, now in (
        ("review", held.spec.actions.texts, spec.actions.texts),
        ("Western", held.spec.categories.texts, spec.categories.texts),
        ("brand-new", held.spec.items, spec.items[: spec.trained_items]),
    ):
        assert (name in before, name in now) == (False, True)


def test_short_histories_are_enough(store: Engine, tmp_path: Path) -> None:
    """Pre-training needs no sample with five earlier events, which training does."""
    fill(store, random_rows(11, each=2))
    url = store.url.render_as_string(hide_password=False)
    result = pretrain(url, tmp_path / "fgbert")
    assert result.exit_code == 0, result.exception
    result = run("train", "srp4ctr", "--store", url, "--out", tmp_path / "srp", *SIZES)
    assert "smaller --min-history" in str(result.exception)
    result = run("pretrain", "fgbert", "--store", url, "--out", tmp_path / "x", "--history", 1, "--pack", 1)
    assert "leaves nothing to see" in str(result.exception)


def test_what_does_not_fit_is_told_in_a_sentence(url: str, tmp_path: Path) -> None:
    assert isinstance(pretrain(url, tmp_path / "x", "--heads", 3).exception, InputError)
    assert pretrain(url, tmp_path / "fgbert").exit_code == 0
    own = ("train", "srp4ctr", "--store", url, "--out", tmp_path / "srp", "--pretrained")
    result = run(*own, tmp_path / "fgbert", "--history", 10, "--pack", 5, "--split", "user")
    assert "--split global, not user" in str(result.exception)
    assert isinstance(run(*own, tmp_path / "nowhere").exception, ArtifactError)
    result = run(*own, tmp_path / "srp", *SIZES)
    assert "is the pre-training itself" in str(result.exception)
    result = run("train", "srp4ctr", "--store", url, "--out", tmp_path / "srp", "--pretrained-rate", 0.5)
    assert "needs --pretrained" in str(result.exception)
