"""`interestream bank`, `train bahe`, `score` and `stats` on a tiny LLM, as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, delete, func, select
from typer.testing import Result

from fusion.encoders.split_llm import LowerLayers, open_lower_layers
from fusion.models.bahe.collate import KINDS
from fusion.training import bahe as bahe_training
from fusion.training.artifact import load_artifact
from interest.errors import ArtifactError, InputError, StoreError
from interest.store.sql import insert_new
from interest.store.tables import behaviors, items
from streams.commands.stats import page
from streams.commands.training_options import OptimiserOptions, TaskOptions
from streams.commands.training_run import train_config
from streams.store.stats import Stats, read_stats
from tests.support.command_line import SMALL_BAHE, output_of, run
from tests.support.ctr_world import fill, random_rows
from tests.support.tiny_llm import save_llm


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llm(tmp_path_factory.mktemp("llm") / "tiny")


@pytest.fixture
def url(store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("INTERESTREAM_CACHE", str(tmp_path / "cache"))
    fill(store, random_rows(11, each=15), interests=True)
    return store.url.render_as_string(hide_password=False)


def counted(store: Engine) -> Stats:
    with store.connect() as connection:
        return read_stats(connection)


def test_a_bank_is_filled_counted_and_cleared(store: Engine, url: str, llm: Path) -> None:
    text = output_of("bank", "fill", "--store", url, "--llm", llm, "--cut", 1)
    (bank,) = counted(store).banks
    assert (bank.llm.split("@")[0], bank.cut, bank.pooling) == ("tiny", 1, "mean")
    assert bank.vectors == bank.asked > 100
    assert bank.bytes == bank.vectors * 32 * 2
    assert (bank.hit_rate, f"bank {bank.id} holds {bank.vectors:,} vectors" in text) == (0.0, True)
    assert bank.repeat_rate is not None
    assert f"450 behaviours are {round(450 * (1 - bank.repeat_rate))} texts" in text
    text = output_of("bank", "fill", "--store", url, "--llm", llm, "--cut", 1)
    assert text.startswith("0 of") or "\n0 of" in text
    output_of("bank", "fill", "--store", url, "--llm", llm, "--cut", 3, "--pooling", "last")
    stats = counted(store)
    assert sorted((own.cut, own.hit_rate) for own in stats.banks) == [(1, 0.5), (3, 0.0)]
    lines = "\n".join(page(stats))
    assert f"vectors, {bank.bytes / 1e6:,.1f} MB: {bank.id}" in lines
    assert "of the behaviours, when last filled whole" in lines
    with store.begin() as connection:
        connection.execute(delete(behaviors).where(behaviors.c.item_id == "i1"))
        connection.execute(delete(items).where(items.c.item_id == "i1"))
    text = output_of("bank", "gc", "--store", url, "--keep", bank.id)
    assert f"{bank.vectors:,} vectors removed and the bank with them" in text
    (left,) = counted(store).banks
    assert left.id == bank.id
    assert 0 < left.vectors < bank.vectors
    assert isinstance(run("bank", "gc", "--store", url, "--keep", "another").exception, InputError)


def test_templates_come_from_the_settings(store: Engine, url: str, llm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERESTREAM_BANK_LLM", str(llm))
    monkeypatch.setenv("INTERESTREAM_BANK_CUT", "1")
    output_of("bank", "fill", "--store", url)
    monkeypatch.setenv("INTERESTREAM_BANK_BEHAVIOR", "{title} {value}")
    text = output_of("bank", "fill", "--store", url)
    assert not text.startswith("0 of")
    assert [bank.cut for bank in counted(store).banks] == [1, 1]
    monkeypatch.setenv("INTERESTREAM_BANK_BEHAVIOR", "{author}")
    assert "{author}" in str(run("bank", "fill", "--store", url).exception)


def train(url: str, llm: Path, out: Path, *more: object) -> Result:
    return run("train", "bahe", "--store", url, "--llm", llm, "--out", out, *SMALL_BAHE, *more)


def test_from_the_log_to_scores_and_the_next_day(store: Engine, url: str, llm: Path, tmp_path: Path) -> None:
    out = tmp_path / "bahe"
    result = train(
        url, llm, out, "--cut", 2, "--interest", "yes", "--sequences", "recent,liked,disliked", "--tune", "lora"
    )
    assert result.exit_code == 0, result.output or result.exception
    assert "tail auc" in result.output
    assert "90 representations" in result.output
    model = load_artifact(out).config.model
    assert (model.recipe.cut, model.sequences) == (2, ("recent", "liked", "disliked"))
    lines = [json.loads(line) for line in scores(url, out)]
    assert {line["item_id"] for line in lines} == {"i1", "i2", "stranger"}
    assert [line["score"] for line in lines] == sorted((line["score"] for line in lines), reverse=True)
    with store.connect() as connection:
        end = connection.scalar(select(func.max(behaviors.c.at))) or 0.0
    assert model.until < end  # what it was selected and tested by is new to it
    newer = [
        {"user_id": f"u{n % 30}", "seq": 15 + n // 30, "item_id": f"i{n % 37}", "action": "rate",
         "at": end + n + 1, "value": float(1 + (n * n) % 5)}
        for n in range(300)
    ]  # fmt: skip
    with store.begin() as connection:
        insert_new(connection, behaviors, newer)
    own = ("train", "bahe", "--store", url, "--continue-from", out, "--out", tmp_path / "next", "--epochs", 1)
    result = run(*own, "--label", "value>=3")
    assert "--label value>=3: it would be the main task, and in the model" in str(result.exception)
    result = run(*own, "--task", "like=value>=4", "--task", "stars=value", "--balance", "gdod")  # one more than before
    assert result.exit_code == 0, result.output or result.exception
    following = load_artifact(tmp_path / "next")
    assert following.config.model.continued_from == load_artifact(out).id
    for told, then in ((None, "gdod"), ("sum", msgspec.UNSET), ("pcgrad", "pcgrad")):
        assert train_config(OptimiserOptions(), TaskOptions(balance=told), last=following, many=2).balance == then
    assert model.until < following.config.model.until < end + 300
    assert [set(json.loads(line)["tasks"]) for line in scores(url, tmp_path / "next")] == [{"like", "stars"}] * 3


def scores(url: str, artifact: Path, *more: object) -> list[str]:
    own = ("--store", url, "--user", "u1", "--items", "i1,i2,stranger", "--json")
    result = run("score", artifact, *own, *more)
    assert result.exit_code == 0, result.output or result.exception
    return result.stdout.splitlines()


def test_what_does_not_fit_is_told_in_a_sentence(url: str, llm: Path, tmp_path: Path) -> None:
    missing = f"sqlite:///{tmp_path / 'none.db'}"
    assert isinstance(run("bank", "fill", "--store", missing, "--llm", llm).exception, StoreError)
    assert "no language model at" in str(run("bank", "fill", "--store", url, "--llm", tmp_path / "x").exception)
    assert "between 0 and 4, not 9" in str(train(url, llm, tmp_path / "x", "--cut", 9).exception)
    assert "not a sequence of this log" in str(train(url, llm, tmp_path / "x", "--sequences", "loved").exception)
    assert train(url, llm, tmp_path / "bahe", "--bank-precision", "bfloat16", "--precision", "bfloat16").exit_code == 0
    other = save_llm(tmp_path / "other", seed=3)
    result = run("score", tmp_path / "bahe", "--store", url, "--user", "u1", "--items", "i1", "--llm", other)
    assert isinstance(result.exception, ArtifactError)
    assert "another language model than tiny@" in str(result.exception)
    assert (
        run("train", "din", "--store", url, "--out", tmp_path / "din", "--epochs", 1, "--interest", "no").exit_code == 0
    )
    result = train(url, llm, tmp_path / "x", "--continue-from", tmp_path / "din")
    assert "is a din model" in str(result.exception)
    result = run("score", tmp_path / "din", "--store", url, "--user", "u1", "--items", "i1", "--llm", llm)
    assert "is a din model, which needs no language model; leave --llm out" in str(result.exception)
    result = train(url, llm, tmp_path / "x", "--continue-from", tmp_path / "bahe")
    assert "wait for more behaviours" in str(result.exception)


def test_training_fills_the_bank_where_it_is_told_to(
    url: str, llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []

    def opened(*own: Any, device: str | None = None) -> LowerLayers:
        places.append(device)
        return open_lower_layers(*own, device=device)

    monkeypatch.setattr(bahe_training, "open_lower_layers", opened)
    result = train(url, llm, tmp_path / "bahe", "--device", "cpu")
    assert result.exit_code == 0, result.output or result.exception
    assert places == ["cpu"]


def test_an_empty_store_has_no_bank(store: Engine, llm: Path) -> None:
    url = store.url.render_as_string(hide_password=False)
    assert "interestream replay" in str(run("bank", "fill", "--store", url, "--llm", llm).exception)
    assert "there is no bank" in output_of("bank", "gc", "--store", url)
    assert counted(store).banks == []


def test_the_help_names_every_sequence_that_there_is() -> None:
    told = " ".join(run("train", "bahe", "--help", env={"COLUMNS": "400"}).stdout.split())
    for name in ("recent", *KINDS, "scene:NAME", "action:NAME"):
        assert name in told
