"""Base rates are frozen once, carried to another store, and named in the version of the texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from interest.errors import InputError
from interest.llm.protocol import Reply, Request
from interest.llm.scripted import reply
from interest.store.sql import insert_new, item_row, writing
from interest.store.tables import base_rates, behaviors, interests, items, partitions
from interest.types import Item
from interest.write.backfill import learn
from interest.write.backlog import Plan
from interest.write.rates import with_rates
from streams.resolve.llm import agent_llm
from streams.settings.schema import LlmSettings
from streams.store.engine import open_store
from tests.support.command_line import output_of, run

GROUPS = ("Drama", "Comedy", "Thriller", "Western")


@pytest.fixture
def filled(store: Engine) -> Engine:
    """Twelve users with two partitions of twelve ratings, the same groups in both; three users have each favourite."""
    catalogue = [
        Item(item_id=f"{name}{at}", title=f"{name} {at}", categories=(name,)) for name in GROUPS for at in range(9)
    ]
    rows, heads = [], []
    for number in range(12):
        user, liked = f"user-{number}", GROUPS[number % 4]
        for index in range(2):
            chosen = [(f"{name}{3 * index + at}", 5.0 if name == liked else 2.0) for name in GROUPS for at in range(3)]
            for at, (item, value) in enumerate(chosen):
                seq = 12 * index + at
                row = {"user_id": user, "seq": seq, "item_id": item, "action": "rate", "at": float(seq)}
                rows.append(row | {"value": value, "scene": None, "event_id": None})
            head = {"user_id": user, "generation": 0, "index": index, "reason": "count"}
            times = {"opened_at": 12.0 * index, "closed_at": 12.0 * index + 11}
            heads.append(head | {"first_seq": 12 * index, "last_seq": 12 * index + 11} | times)
    with writing(store) as connection:
        insert_new(connection, items, [item_row(item) for item in catalogue])
        insert_new(connection, behaviors, rows)
        insert_new(connection, partitions, heads)
    return store


def test_rates_are_frozen_shown_carried_over_and_stay(filled: Engine, tmp_path: Path) -> None:
    file, url = tmp_path / "rates.json", filled.url.render_as_string()
    assert "no base rates are frozen" in output_of("rates", "--store", url)
    run("rates", "--store", url, "--freeze", "--export", file)
    (row,) = json.loads(run("rates", "--store", url, "--json").stdout)
    assert (row["users"], row["rates"]["Drama"]) == (12, 0.25)
    run("rates", "--store", url, "--freeze")  # the same store gives the same rates
    assert len(json.loads(run("rates", "--store", url, "--json").stdout)) == 1
    other = open_store(f"sqlite:///{tmp_path / 'other.db'}")
    output_of("rates", "--store", other.url, "--import", file)
    assert with_rates(other, "plain-2")[0] == f"plain-2@{row['version']}"
    other.dispose()
    file.write_text('{"rates": 3}')
    assert isinstance(run("rates", "--store", url, "--import", file).exception, InputError)


def test_learning_again_by_the_new_prompts_leaves_the_old_texts(filled: Engine) -> None:
    url = filled.url.render_as_string()
    output_of("learn", "--store", url, "--llm", "statistics")
    output_of("learn", "--store", url, "--llm", "statistics", "--prompt-version", "plain-2")
    output_of("learn", "--store", url, "--llm", "statistics", "--prompt-version", "plain-2")
    with filled.connect() as connection:
        found = list(connection.execute(select(interests.c.prompt_version)).scalars())
    (row,) = json.loads(run("rates", "--store", url, "--json").stdout)
    assert sorted(set(found)) == ["plain-1", f"plain-2@{row['version']}"]
    assert len(found) == 48


def written(engine: Engine, version: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        rows = connection.execute(
            select(interests)
            .where(interests.c.prompt_version == version)
            .order_by(interests.c.user_id, interests.c.index)
        )
        return [tuple(row) for row in rows]


def test_texts_depend_on_the_named_rates_and_not_on_what_the_store_holds_later(filled: Engine, tmp_path: Path) -> None:
    """Replay equals live: half of the users are written before the others' behaviours change what is usual."""
    file = tmp_path / "rates.json"
    output_of("rates", "--store", filled.url, "--freeze", "--export", file)
    version, rates = with_rates(filled, "plain-2")
    learn(
        filled,
        says_what_it_was_told,
        model="m",
        plan=Plan(prompt_version=version, rates=rates, users=tuple(f"user-{at}" for at in range(6))),
    )
    with writing(filled) as connection:  # dramas become what nobody chooses
        connection.execute(behaviors.update().where(behaviors.c.user_id >= "user-6").values(item_id="Western0"))
    output_of("rates", "--store", filled.url, "--freeze")
    assert with_rates(filled, "plain-2")[0] != version
    other = open_store(f"sqlite:///{tmp_path / 'other.db'}")
    copy(filled, other)
    output_of("rates", "--store", other.url, "--import", file)
    again, same = with_rates(other, version)
    learn(
        other,
        says_what_it_was_told,
        model="m",
        plan=Plan(prompt_version=again, rates=same, users=tuple(f"user-{at}" for at in range(6))),
    )
    assert written(other, version) == written(filled, version)
    assert len(written(other, version)) == 12
    other.dispose()


def copy(engine: Engine, other: Engine) -> None:
    for table in (items, behaviors, partitions):
        with engine.connect() as connection, writing(other) as into:
            insert_new(into, table, [dict(row) for row in connection.execute(select(table)).mappings()])


async def says_what_it_was_told(request: Request) -> Reply:
    return reply(request.messages[-1].content.rpartition("\n")[2])


def test_unchanged_shifts_cost_no_call_and_are_counted(filled: Engine) -> None:
    seen = []

    async def counted(request: Request) -> Reply:
        seen.append(request)
        return await says_what_it_was_told(request)

    output_of("rates", "--store", filled.url, "--freeze")
    version, rates = with_rates(filled, "plain-2")
    done = learn(filled, counted, model="m", plan=Plan(prompt_version=version, rates=rates))
    assert done.shifts == {"unchanged": 12}
    assert done.summaries == {"ok": 24}
    assert not any("How did this user" in request.messages[-1].content for request in seen)
    (shown,) = json.loads(run("stats", "--store", filled.url, "--json").stdout)["versions"]
    assert shown["shifts"] == {"statistics": {"unchanged": 12}}


def test_a_worker_is_told_to_name_the_rates(filled: Engine) -> None:
    with pytest.raises(InputError, match="no frozen base rates"):
        agent_llm(LlmSettings(prompt_version="json-2"), filled)
    output_of("rates", "--store", filled.url, "--freeze")
    with pytest.raises(InputError, match=r"prompt_version = 'json-2@[0-9a-f]{8}'"):
        agent_llm(LlmSettings(prompt_version="json-2"), filled)
    named, _ = with_rates(filled, "json-2")
    assert agent_llm(LlmSettings(prompt_version=named), filled).plan.prompt().tested


def test_forgetting_a_user_leaves_the_rates_says_so_and_new_ones_are_made_without_them(filled: Engine) -> None:
    url = filled.url.render_as_string(hide_password=False)
    assert "base rates" not in output_of("forget", "user-11", "--yes", "--store", url)
    run("rates", "--store", url, "--freeze")
    with filled.connect() as connection:
        before = connection.execute(select(base_rates)).all()
    said = output_of("forget", "user-0", "--yes", "--store", url)
    assert f"base rates {before[0].version} stay" in said
    assert "interestream rates --freeze" in said
    with filled.connect() as connection:
        assert connection.execute(select(base_rates)).all() == before
    assert "user-0" not in before[0].body
    run("rates", "--store", url, "--freeze")
    with filled.connect() as connection:
        assert len(connection.execute(select(base_rates)).all()) == 2


def test_a_file_that_cannot_be_written_is_told_before_rates_are_frozen(store: Engine, tmp_path: Path) -> None:
    result = run("rates", "--store", store.url, "--freeze", "--export", tmp_path / "nowhere" / "rates.json")
    assert isinstance(result.exception, InputError)  # and not that this store has too few users
    assert "there is no folder" in str(result.exception)
