"""`interestream train din` and `interestream score` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, delete, func, select
from typer.testing import Result

from fusion.features.log import newest_time
from fusion.tables import representations, vectors
from fusion.training.artifact import load_artifact
from interest.errors import ArtifactError, InputError, StoreError
from interest.store.sql import insert_new, item_row
from interest.store.tables import behaviors, items
from interest.types import Item
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


@pytest.fixture
def trained(store: Engine, url: str, tmp_path: Path) -> tuple[object, ...]:
    assert train(store, tmp_path / "din").exit_code == 0
    return ("score", tmp_path / "din", "--store", url)


def test_items_are_named_in_every_way_and_a_title_with_commas_is_one(
    store: Engine, trained: tuple[object, ...], tmp_path: Path
) -> None:
    with store.begin() as connection:
        insert_new(connection, items, [item_row(Item(item_id="Matrix, The", title="The Matrix"))])

    def scored(*options: object) -> set[str]:
        result = run(*trained, "--user", "u1", *options, "--json")
        assert result.exit_code == 0, result.exception
        return {json.loads(line)["item_id"] for line in result.stdout.splitlines()}

    file = tmp_path / "items.txt"
    file.write_text("Matrix, The\ni2\n")
    assert scored("--items", "i1,i2") == {"i1", "i2"}
    assert scored("--items", "Matrix, The") == {"Matrix, The"}  # an item by the whole name
    assert scored("--items", "Alien, The") == {"Alien", "The"}  # there is none
    assert scored("--items", "Alien, The", "--items", "i1") == {"Alien, The", "i1"}
    assert scored("--items", '["Alien, The", "i1"]') == {"Alien, The", "i1"}
    assert scored("--items-file", file) == {"Matrix, The", "i2"}
    assert scored("--items-file", file, "--items", "i1") == {"Matrix, The", "i2", "i1"}
    for nothing in (", ,", "", " "):
        assert "names no item" in str(run(*trained, "--user", "u1", "--items", nothing).exception)


def test_the_unknown_is_marked_in_every_output_and_files_hold_what_is_printed(
    trained: tuple[object, ...], tmp_path: Path
) -> None:
    pq.write_table(pa.table({"item_id": ["i2", "nothing"], "user_id": ["u1", "nobody"]}), tmp_path / "pairs.parquet")
    given = (*trained, "--pairs", tmp_path / "pairs.parquet")
    rows = [line.split("\t") for line in run(*given).stdout.splitlines()]
    assert [row[:2] + row[3:] for row in rows] == [
        ["u1", "i2", "Item 2"],
        ["nobody", "nothing", "", "unknown user, unknown item"],
    ]
    lines = [json.loads(line) for line in run(*given, "--json").stdout.splitlines()]
    assert [(line["unknown_user"], line["unknown_item"]) for line in lines] == [(False, False), (True, True)]
    assert run(*given, "--out", tmp_path / "s.parquet").stdout == ""
    written = pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert [row | {"score": round(row["score"], 6)} for row in written] == lines


def test_ids_of_another_store_are_warned_of(trained: tuple[object, ...], tmp_path: Path) -> None:
    known = run(*trained, "--user", "u1", "--items", "i1,stranger")
    assert "warning" not in known.stderr
    pairs = tmp_path / "strangers.csv"
    pairs.write_text("user_id,item_id\nnobody,7\nnobody,8\n")
    for asked in (("--user", "nobody", "--items", "7,8"), ("--pairs", pairs)):
        told = run(*trained, *asked).stderr
        assert "warning: the artifact has met none of these items" in told
        assert "Is --store the store that it was trained on" in told
        assert "warning: the store has no behaviour of any of these users" in told


def test_the_age_of_item_statistics_is_told_and_at_counts_them_anew(
    store: Engine, trained: tuple[object, ...], tmp_path: Path
) -> None:
    given = (*trained, "--user", "u1", "--items", "i1,i2", "--json")
    fresh = run(*given)
    assert "item statistics: the artifact's, of behaviours up to 1970-0" in fresh.stderr
    assert "up to date" in fresh.stderr
    with store.connect() as connection:
        end = newest_time(connection)
    now = run(*given, "--at", end)
    assert "item statistics: of the store's behaviours before" in now.stderr
    with store.begin() as connection:  # three days on, everybody adores i1
        loved = {"seq": 900, "item_id": "i1", "action": "rate", "value": 5.0, "at": end + 3 * 86_400}
        insert_new(connection, behaviors, [loved | {"user_id": f"u{user}"} for user in range(2, 30)])
    aged = run(*given)
    assert "3.0 days older than the request; --at TIME counts the store's" in aged.stderr
    assert run(*given, "--at", end).stdout == now.stdout  # later events change no score
    assert run(*given, "--at", end + 4 * 86_400).stdout != aged.stdout
    assert "--at soon: give a date" in str(run(*given, "--at", "soon").exception)
