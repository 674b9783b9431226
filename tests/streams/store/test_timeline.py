"""`timeline`: what a page says of a user, at any width, and the same as JSON."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from interest.errors import InputError
from interest.store.sql import insert_new, item_row, upsert, writing
from interest.store.tables import interests, items
from interest.types import Item
from streams.cli import app
from streams.commands.timeline import page
from streams.store.timeline import format_time, read_timeline
from tests.support.small_store import ANN, SECRET, fill, interest


@pytest.fixture
def small(store):
    fill(store)
    return store


def lines(store, user_id=ANN, **options):
    with store.connect() as connection:
        return list(page(read_timeline(connection, user_id), **options))


def test_a_page_of_everything(small):
    text = "\n".join(lines(small))
    assert f"User {ANN} (age 24, gender F)" in text
    assert "3 closed partitions of 12 behaviours; interests by the prompts plain-1" in text
    assert "#0      1998-03-16 to 1998-03-19: 4 behaviours, closed by count" in text
    assert f"summary [LLM]: {SECRET}, part 0." in text
    assert "evidence: Das Boot (1981) = 1; Film 1 = 2" in text
    assert "shift [LLM]: New in part 1: whales." in text
    assert "summary [STATISTICS, not the LLM: rejected]" in text
    assert "no interest learned yet" in text  # partition 2
    assert "open    1998-03-28 to 1998-03-29: 2 behaviours in the open cache" in text


@pytest.mark.parametrize("width", [40, 80, 100])
def test_no_line_is_wider_than_the_terminal(small, width):
    assert max(map(len, lines(small, width=width))) <= width


def test_an_item_without_a_title_goes_by_its_id(small):
    with writing(small) as connection:
        connection.execute(update(interests).values(evidence="[3, 99]"))
    assert "evidence: i3 = 4" in "\n".join(lines(small))


def test_a_title_cannot_steer_the_terminal(small):
    with writing(small) as connection:
        upsert(connection, items, [item_row(Item(item_id="i0", title="\x1b[31mRed\nline"))])
    assert "\x1b" not in "".join(lines(small))


def test_evidence_is_cut_and_counted(small):
    assert any("evidence: Das Boot (1981) = 1; and 1 more" in line for line in lines(small, evidence=1))
    assert not any("evidence" in line for line in lines(small, evidence=0))


def test_a_user_with_an_open_cache_only(small):
    assert lines(small, "bob") == [
        "User bob",
        "0 closed partitions of 0 behaviours",
        "",
        "open    1998-03-16 to 1998-03-18: 3 behaviours in the open cache, read by the CTR model only",
    ]


def test_of_two_prompt_versions_the_fuller_one_is_shown(small):
    with writing(small) as connection:
        insert_new(connection, interests, [interest(ANN, 0, "json-1", summary="Other words.")])
    with small.connect() as connection:
        usual, other = read_timeline(connection, ANN), read_timeline(connection, ANN, "json-1")
    assert (usual.prompt_version, usual.other_versions) == ("plain-1", ["json-1"])
    assert other.partitions[0].summary is not None
    assert other.partitions[0].summary.text == "Other words."
    assert other.partitions[1].summary is None


def test_an_unknown_user_and_those_who_are_there(small):
    with small.connect() as connection, pytest.raises(InputError, match=f"no user 'ann-q7x'.*do you mean {ANN}"):
        read_timeline(connection, "ann-q7x")
    with small.connect() as connection, pytest.raises(InputError, match=f"known users are for example {ANN}, bob"):
        read_timeline(connection, "zzz")


def test_an_unknown_user_of_an_empty_store(store):
    with (
        store.connect() as connection,
        pytest.raises(InputError, match="the store is empty; run `interestream"),
    ):
        read_timeline(connection, "ann")


def test_the_command_prints_one_json_object(small):
    run = CliRunner().invoke(app, ["timeline", ANN, "--json", "--store", small.url.render_as_string()])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert [period["index"] for period in found["partitions"]] == [0, 1, 2]
    assert found["partitions"][0]["evidence"][0] == {
        "seq": 0,
        "item_id": "i0",
        "title": "Das Boot (1981)",
        "action": "rate",
        "value": 1.0,
        "at": "1998-03-16 02:13:20",
    }
    assert found["partitions"][0]["shift"] is None
    assert found["open"]["behaviors"] == 2


def test_times_beyond_the_calendar(small):
    assert format_time(0.0) == "1970-01-01 00:00:00"
    assert format_time(1e18) == "1000000000000000000 s"
