"""`train --task`, and the scores of several tasks in every form that `score` and the service give them."""

from __future__ import annotations

import asyncio
import csv
import json
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from fusion.features.dataset import DatasetConfig, read_dataset
from fusion.features.log import newest_time
from fusion.features.tasks import parse_tasks
from interest.errors import InputError
from streams.client import AsyncClient, ServiceError
from streams.commands.training_metrics import task_lines
from streams.service.app import make_app
from streams.service.server import make_service
from streams.settings.schema import ServeSettings, Settings
from tests.support.command_line import run
from tests.support.ctr_world import fill, random_rows
from tests.support.service_rig import listening

TASKS = ("--task", "like=value>=4", "--task", "love=value>=5@0.5", "--task", "stars=value")
OWN = ("--epochs", 1, "--history", 10, "--interest", "no", "--match", "no")


@pytest.fixture
def url(store: Engine) -> str:
    fill(store, random_rows(11))
    return store.url.render_as_string(hide_password=False)


def test_tasks_are_trained_told_and_scored_in_every_form(store: Engine, url: str, tmp_path: Path) -> None:
    model = tmp_path / "din"
    trained = run("train", "din", "--store", url, "--out", model, *OWN, *TASKS, "--balance", "gdod")
    assert trained.exit_code == 0, trained.output
    for told in (
        "task love: value>=5, of 600 of 600 samples",
        "weight 0.5",
        "task stars",
        "rmse",
        "balanced steps: 1;",
        ", love AUC 0.",
        ", stars RMSE ",
    ):
        assert told in trained.output

    asked = ("--store", url, "--user", "u1", "--items", "i1,i2,i3", "--blend", "love*0.5+like")
    lines = [json.loads(line) for line in run("score", model, *asked, "--json").stdout.splitlines()]
    assert set(lines[0]["tasks"]) == {"like", "love", "stars"}
    for line in lines:
        assert line["score"] == pytest.approx(line["tasks"]["like"] + 0.5 * line["tasks"]["love"], abs=1e-5)
    assert [line["score"] for line in lines] == sorted((line["score"] for line in lines), reverse=True)

    small = run("score", model, *asked[:-1], "like*1e-3+.5E+0*love", "--json")
    for line in map(json.loads, small.stdout.splitlines()):
        assert line["score"] == pytest.approx(line["tasks"]["like"] / 1000 + line["tasks"]["love"] / 2, abs=2e-6)
    assert "scale" not in small.stderr
    mixed = run("score", model, *asked[:-1], "like+stars")
    assert "--blend adds what is not on one scale: stars (value) to probabilities" in mixed.stderr
    with pytest.raises(InputError, match=r"'love\*x' is not NAME"):
        raise run("score", model, *asked[:-1], "like+love*x").exception or AssertionError

    text = run("score", model, *asked[:-2]).stdout.splitlines()
    cells = text[0].split("\t")
    assert cells[3].startswith(f"like={cells[2]} love=0.")
    for name in ("s.csv", "s.parquet", "s.jsonl"):
        assert run("score", model, *asked, "--out", tmp_path / name).exit_code == 0
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["score_stars"]) == pytest.approx(lines[0]["tasks"]["stars"], abs=1e-5)
    table = pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert table[0]["score_love"] == pytest.approx(lines[0]["tasks"]["love"], abs=1e-5)
    assert json.loads((tmp_path / "s.jsonl").read_text().splitlines()[0]) == lines[0]

    async def served() -> None:
        with store.connect() as connection:
            newest = newest_time(connection)
        service = make_service(Settings(store=url, serve=ServeSettings(artifact=str(model))), None)
        service.scoring.refresh()
        transport = httpx.ASGITransport(make_app(service))
        async with AsyncClient("http://service", transport=transport) as client:
            found = await client.score("u1", ["i1", "i2", "i3"], top=3, at=newest, blend="love*0.5+like")
            with pytest.raises(ServiceError, match="no task hate; it has like, love, stars") as refused:
                await client.score("u1", ["i1"], blend="hate")
        async with listening(make_app(service), port=0) as server:
            port = server.servers[0].sockets[0].getsockname()[1]
            there = ("score", "--url", f"http://127.0.0.1:{port}", "--user", "u1", "--items", "i1,i2,i3")
            at = datetime.fromtimestamp(newest, UTC).isoformat()
            told = await asyncio.to_thread(run, *there, "--blend", "love*0.5+like", "--json", "--at", at)
            scales = await asyncio.to_thread(run, *there, "--blend", "like+stars")
        assert told.exit_code == 0, (told.exception, told.output)
        rows = [json.loads(line) for line in told.stdout.splitlines() if line[0] == "{"]  # the rest is its log
        assert [row["item_id"] for row in rows] == [line["item_id"] for line in lines]
        assert "scale" not in told.stderr
        assert "stars (value) to probabilities" in scales.stderr
        service.engine.dispose()
        assert (refused.value.status, refused.value.field) == (422, "blend")
        assert [one.item_id for one in found.scores] == [line["item_id"] for line in lines]
        for one, line in zip(found.scores, lines, strict=True):
            assert one.score == pytest.approx(line["score"], abs=1e-5)
            assert one.tasks == pytest.approx(line["tasks"], abs=1e-5)

    asyncio.run(served())


@pytest.mark.parametrize("model", ["din", "kv", "srp4ctr", "bahe"])
@pytest.mark.parametrize("options", [("--label", "foo"), ("--task", "like=foo"), ("--balance", "foo")])
def test_a_rule_that_is_not_one_is_told_before_the_store_is_read(
    url: str, tmp_path: Path, model: str, options: tuple[str, ...]
) -> None:
    result = run("train", model, "--store", url, "--out", tmp_path / "x", *options)
    assert isinstance(result.exception, InputError)
    assert "foo" in str(result.exception)
    assert not result.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((*TASKS, "--balance", "best"), "--balance best: no such way; give one of sum, gdod"),
        (("--balance", "gdod"), "there is one task"),
        ((*TASKS, "--label", "value>=3"), "give one of the two"),
        (("--task", "watched=seconds>=30", "--task", "like=value>=4"), "the log stores no seconds; it stores action"),
        (("--task", "value>=4"), "has no name"),
    ],
)
def test_what_cannot_be_learnt_is_told_in_a_sentence(
    url: str, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    result = run("train", "din", "--store", url, "--out", tmp_path / "x", *OWN, *options)
    assert isinstance(result.exception, InputError)
    assert told in str(result.exception)
    assert not (tmp_path / "x").exists()


def test_an_artifact_of_one_task_says_that_there_is_nothing_to_blend(url: str, tmp_path: Path) -> None:
    assert run("train", "din", "--store", url, "--out", tmp_path / "one", *OWN).exit_code == 0
    asked = ("score", tmp_path / "one", "--store", url, "--user", "u1", "--items", "i1")
    assert "tasks" not in json.loads(run(*asked, "--json").stdout)
    with pytest.raises(InputError, match="the artifact has one task"):
        raise run(*asked, "--blend", "ctr").exception or AssertionError


def test_behaviours_without_a_logarithm_are_told_beside_the_task(store: Engine) -> None:
    rows = [(user, item, at, 0.0 if n % 5 == 0 else value) for n, (user, item, at, value) in enumerate(random_rows(11))]
    fill(store, rows)
    tasks = parse_tasks(["like=value>=4", "long=log(value)", "stars=value"])
    with store.connect() as connection:
        told = list(task_lines(read_dataset(connection, DatasetConfig(tasks=tasks, history=10))))
    assert "task long: of 150 behaviours it learns nothing, as value there is 0 or less, which has no logarithm" in told
    assert sum("no logarithm" in line for line in told) == 1
