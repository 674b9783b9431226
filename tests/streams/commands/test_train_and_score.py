"""`interestream train din` and `interestream score` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, func, select
from typer.testing import Result

from fusion.tables import representations, vectors
from fusion.training.artifact import load_artifact
from interest.errors import ArtifactError, InputError, StoreError
from tests.support.command_line import run
from tests.support.ctr_world import fill, random_rows


def train(store: Engine, out: Path, *more: object) -> Result:
    url = store.url.render_as_string(hide_password=False)
    return run("train", "din", "--store", url, "--out", out, "--epochs", 2, "--history", 10, *more)


@pytest.fixture
def url(store: Engine) -> str:
    fill(store, random_rows(11), interests=True)
    return store.url.render_as_string(hide_password=False)


def test_training_prints_its_metrics_and_stores_user_vectors(store: Engine, url: str, tmp_path: Path) -> None:
    result = train(store, tmp_path / "din")
    assert result.exit_code == 0, result.output
    for metric in ("auc", "gauc", "log loss", "normalised entropy", "calibration", "tail auc", "cold users auc"):
        assert metric in result.output
    assert "150 representations" in result.output
    with store.connect() as connection:
        assert connection.execute(select(func.count()).select_from(representations)).scalar() == 150


def test_scores_come_as_lines_or_as_json_best_item_first(store: Engine, url: str, tmp_path: Path) -> None:
    assert train(store, tmp_path / "din", "--interest", "no", "--split", "user").exit_code == 0
    result = run("score", tmp_path / "din", "--store", url, "--user", "u1", "--items", "i1,i2,stranger", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert {line["item_id"] for line in lines} == {"i1", "i2", "stranger"}
    assert [line["score"] for line in lines] == sorted((line["score"] for line in lines), reverse=True)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("item_id,user_id\ni2,u1\nstranger,nobody\n")
    result = run("score", tmp_path / "din", "--store", url, "--pairs", pairs)
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[:2] for row in rows] == [["u1", "i2"], ["nobody", "stranger"]]
    by_item = {line["item_id"]: line["score"] for line in lines}
    assert float(rows[0][2]) == pytest.approx(by_item["i2"], abs=1e-4)


def test_what_cannot_be_trained_is_told_in_a_sentence(store: Engine, tmp_path: Path) -> None:
    result = train(store, tmp_path / "din", "--interest", "no")
    assert isinstance(result.exception, InputError)
    assert "interestream replay" in str(result.exception)
    fill(store, random_rows(12))
    result = train(store, tmp_path / "din", "--interest", "yes")
    assert "interestream fuse" in str(result.exception)
    result = train(store, tmp_path / "din", "--interest", "no", "--label", "value>9")
    assert "choose a threshold inside" in str(result.exception)
    missing = f"sqlite:///{tmp_path / 'none.db'}"
    assert isinstance(run("train", "din", "--store", missing, "--out", tmp_path / "x").exception, StoreError)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "tpu", "cpu,cuda", "meta", ""])
@pytest.mark.parametrize("job", [("train", "din"), ("train", "srp4ctr"), ("pretrain", "fgbert"), ("bank", "fill")])
def test_a_device_that_is_not_there_is_told_in_a_sentence(
    store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: tuple[str, str], device: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out = () if job[0] == "bank" else ("--out", tmp_path / "x")
    url = store.url.render_as_string(hide_password=False)
    result = run(*job, "--store", url, *out, "--device", device)
    assert isinstance(result.exception, InputError), result.exception
    assert f"--device {device}: " in str(result.exception)
    assert "give cpu" in str(result.exception)


def test_what_cannot_be_scored_is_told_in_a_sentence(url: str, tmp_path: Path) -> None:
    result = run("score", tmp_path / "nowhere", "--store", url, "--user", "u1", "--items", "i1")
    assert isinstance(result.exception, ArtifactError)
    result = run("score", tmp_path / "nowhere", "--store", url, "--user", "u1")
    assert "either --pairs FILE, or --user" in str(result.exception)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("user,item\nu1,i1\n")
    result = run("score", tmp_path / "nowhere", "--store", url, "--pairs", pairs)
    assert "it has: user, item" in str(result.exception)
    pairs.write_text("user_id,item_id\nu1,i1\nu1,\n")
    result = run("score", tmp_path / "nowhere", "--store", url, "--pairs", pairs)
    assert "line 3: user_id or item_id is empty" in str(result.exception)


def test_interests_are_used_where_there_are_vectors_and_that_is_said(store: Engine, url: str, tmp_path: Path) -> None:
    """`--interest auto`, the default of every model: what it decides is what `yes` or `no` would have made."""
    result = train(store, tmp_path / "auto")
    assert "interests: read, by the prompts p1 and the text encoder e1" in result.stdout
    assert load_artifact(tmp_path / "auto").config.model.interest
    assert "interests: not read (--interest no)" in train(store, tmp_path / "no", "--interest", "no").stdout
    assert not load_artifact(tmp_path / "no").config.model.interest
    with store.begin() as connection:
        connection.execute(delete(vectors))
    result = train(store, tmp_path / "without")
    assert "interests: not read, for the store has no vectors" in result.stdout
    assert "representations" not in result.stdout
    assert not load_artifact(tmp_path / "without").config.model.interest
