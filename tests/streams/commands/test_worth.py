"""`interestream worth` finds a text that matters, says of noise that it is noise, and goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, update

from fusion.tables import vectors
from interest.errors import InputError
from interest.store.sql import insert_new
from interest.store.tables import interests, usage
from streams.commands import worth as command
from tests.support.command_line import output_of, run
from tests.support.ctr_world import DAY, WIDTH, Row, fill

USERS, ITEMS, PERIODS, EACH = 120, 8, 3, 5
SMALL = ("--model", "din", "--history", 10, "--batch-size", 32, "--lr", 0.01, "--no-plot", "--control", "shuffled",
         "--match", "no")  # fmt: skip


def planted(store: Engine, *, told: bool) -> str:
    """Users whose taste changes with every five events. Told: the text before a period says what it will be like."""
    rng = np.random.default_rng(1)
    taste = rng.choice([-1.0, 1.0], size=(USERS, PERIODS + 1, 4))
    rows: list[Row] = []
    for user in range(USERS):
        for number in range(PERIODS * EACH):
            item = int(rng.integers(ITEMS))
            likes = taste[user, number // EACH, item % 4] > 0
            rows.append((user, item, number * DAY + user, 5.0 if likes else 2.0))
    fill(store, rows, USERS, ITEMS, interests=True)
    if told:
        with store.begin() as connection:
            for user in range(USERS):
                for period in range(PERIODS):
                    says = np.repeat(taste[user, period + 1], WIDTH // 4).astype("<f2")
                    place = (vectors.c.user_id == f"u{user}") & (vectors.c.index == period)
                    connection.execute(update(vectors).where(place).values(summary=says.tobytes()))
    return store.url.render_as_string(hide_password=False)


def written_about(store: Engine) -> None:
    """Interests of every partition, as 720 calls of an LLM would have left them."""
    texts = {"summary": "s", "shift": "d", "evidence": "[]", "claims": 0, "supported": 0, "model": "m", "at": 0.0}
    sources = {f"{kind}_source": "llm" for kind in ("summary", "shift")}
    sources |= {f"{kind}_outcome": "ok" for kind in ("summary", "shift")}
    with store.begin() as connection:
        keys = [{"user_id": f"u{u}", "generation": 0, "index": k} for u in range(USERS) for k in range(PERIODS)]
        insert_new(connection, interests, [key | {"prompt_version": "p1"} | texts | sources for key in keys])
        spent = {"calls": 720, "cached": 0, "prompt_tokens": 72_000, "completion_tokens": 18_000, "seconds": 360.0}
        insert_new(connection, usage, [{"model": "m", "prompt_version": "p1", "kind": "summary"} | spent])


def table_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "table.json").read_text())
    return found


def test_a_text_that_matters_is_found_and_priced(store: Engine, tmp_path: Path) -> None:
    url = planted(store, told=True)
    written_about(store)
    out = tmp_path / "worth"
    priced = ("--prompt-price", 10, "--hour-price", 3.6)
    said = output_of("worth", "--store", url, "--out", out, "--seeds", 2, "--epochs", 6, *SMALL, *priced)
    table = table_in(out)
    whole = next(row for row in table["models"] if row["model"] == "all parts")
    gain = next(row for row in table["models"] if row["model"] == "all, interest text of other users")["under_all"]
    assert whole["over_nothing"]["auc"]["low"] > 0.02
    assert gain["auc"]["low"] > 0.02
    assert gain["log_loss"]["high"] < 0
    assert table["costs_per_1000_behaviors"] == {"calls": 400, "tokens": 50_000, "seconds": 200, "money": 0.6}
    assert table["costs_per_001_auc"]["calls"] == pytest.approx(400 / (gain["auc"]["mean"] / 0.001), rel=0.01)
    assert said.rstrip().endswith("over shuffled text: worth its 50,000 tokens per 1,000 behaviours.")
    assert {"gauc", "log_loss", "cold_items", "cold_users", "many_partitions"} <= whole.keys()


def test_of_noise_it_says_that_it_is_noise(store: Engine, tmp_path: Path) -> None:
    url = planted(store, told=False)
    written_about(store)
    out = tmp_path / "worth"
    said = output_of("worth", "--store", url, "--out", out, "--seeds", 2, "--epochs", 2, *SMALL)
    assert said.rstrip().endswith("over shuffled text: not worth its 50,000 tokens per 1,000 behaviours.")
    assert "costs_per_001_auc" not in table_in(out)


def test_stopped_at_any_point_it_goes_on_to_the_same_table(
    store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = planted(store, told=True)
    asked = ("worth", "--store", url, "--seeds", 1, "--epochs", 2, *SMALL)
    output_of(*asked, "--out", tmp_path / "whole")
    budget = 0
    shown: list[str] = []

    @contextmanager
    def stopping(title: str, _total: int | None, **_options: object) -> Iterator[Any]:
        left = budget
        shown.append(title)

        def advance(count: int) -> None:
            nonlocal left
            left -= count
            if left < 0:
                raise KeyboardInterrupt

        yield advance

    monkeypatch.setattr(command, "progress", stopping)
    for budget in (500, 1400, 2500):  # noqa: B007  (read by `stopping`): in the first epoch, the second, and never
        result = run(*asked, "--out", tmp_path / "parts")
    assert result.exit_code == 0
    assert len(shown) > 3  # runs were begun again
    shown.clear()
    assert table_in(tmp_path / "parts") == table_in(tmp_path / "whole")
    output_of(*asked, "--out", tmp_path / "parts")
    assert not shown  # all was there


def test_a_folder_keeps_to_one_comparison(store: Engine, tmp_path: Path) -> None:
    url = planted(store, told=True)
    asked = ("worth", "--store", url, "--out", tmp_path / "worth", "--seeds", 1, "--epochs", 1, *SMALL)
    output_of(*asked)
    result = run(*asked, "--min-history", 6)
    assert isinstance(result.exception, InputError)
    assert "another comparison (other: data, content" in str(result.exception)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    result = run(*asked[:3], "--out", tmp_path / "full", *asked[5:])
    assert "holds something else" in str(result.exception)


def test_what_cannot_be_compared_is_refused(store: Engine, tmp_path: Path) -> None:
    fill(store, [(u, i % 9, i * DAY, float(i % 5)) for u in range(20) for i in range(30)], 20, 9)
    url = store.url.render_as_string(hide_password=False)
    result = run("worth", "--store", url, "--out", tmp_path / "worth", *SMALL)
    assert isinstance(result.exception, InputError)
    assert "no interest vectors" in str(result.exception)
    assert not (tmp_path / "worth").exists()
    result = run("worth", "--store", url, "--out", tmp_path / "worth", "--pretrained", tmp_path, *SMALL)
    assert "--pretrained is for --model srp4ctr" in str(result.exception)
