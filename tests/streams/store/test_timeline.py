"""`timeline`: what a page says of a user, at any width, and the same as JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from interest.errors import InputError
from interest.store.sql import insert_new, item_row, upsert, writing
from interest.store.tables import behaviors, interests, items, partitions
from interest.types import Item
from streams.cli import app
from streams.commands.timeline import page
from streams.store.timeline import format_time, newest_periods, read_history, read_timeline
from tests.support.small_store import ANN, AT, DAY, SECRET, behavior, fill, interest, partition


@pytest.fixture
def small(store):
    fill(store)
    return store


def lines(store, user_id=ANN, **options):
    with store.connect() as connection:
        return list(page(connection, read_history(connection, user_id), **options))


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


def test_pages_of_the_newest_partitions_are_the_timeline_backwards(small):
    with small.connect() as connection:
        whole = read_timeline(connection, ANN).partitions[::-1]
        first, more = newest_periods(connection, ANN, None, 2)
        rest, last = newest_periods(connection, ANN, first[-1].index, 2)
        assert (more, last) == (True, False)
        assert first + rest == whole
        assert newest_periods(connection, ANN, 0, 2) == ([], False)
        assert newest_periods(connection, "nobody", None, 2) == ([], False)


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


def test_durations_and_the_counts_behind_a_liking_are_shown(small):
    songs = [Item(item_id=f"i{number}", title=f"Song {number}", categories=("Jazz",)) for number in range(4)]
    with writing(small) as connection:
        upsert(connection, items, [item_row(song) for song in songs])
        mine = behaviors.c.user_id == ANN
        connection.execute(update(behaviors).where(mine).values(action="play", value=60.0))
        connection.execute(update(behaviors).where(mine, behaviors.c.seq < 3).values(value=3130.0))
        told = {"summary": "This user enjoyed jazz titles.", "evidence": "[0, 2, 3]"}
        connection.execute(update(interests).where(interests.c.index == 0).values(**told))
    text = " ".join(" ".join(lines(small)).split())
    assert "evidence: Song 0 = 0:52:10; Song 2 = 0:52:10; Song 3 = 0:01:00" in text
    assert "counts: jazz titles: 3 of 4 played for 0:52:10 or longer" in text


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
        "shown": "1",
        "at": "1998-03-16 02:13:20",
    }
    assert found["partitions"][0]["shift"] is None
    assert found["open"]["behaviors"] == 2


def test_times_beyond_the_calendar(small):
    assert format_time(0.0) == "1970-01-01 00:00:00"
    assert format_time(1e18) == "1000000000000000000 s"


def long_history(store, count=1_070):
    """Ann with `count` partitions of 4 behaviours, 12 days each, and an interest in all but the newest."""
    fill(store)
    with writing(store) as connection:
        insert_new(connection, behaviors, [behavior(ANN, seq) for seq in range(14, 4 * count)])
        insert_new(connection, partitions, [partition(ANN, index) for index in range(3, count)])
        insert_new(connection, interests, [interest(ANN, index) for index in range(2, count - 1)])


def command(store, *options):
    run = CliRunner().invoke(app, ["timeline", ANN, "--store", store.url.render_as_string(), *map(str, options)])
    assert run.exit_code == 0, run.output
    return run.stdout


def headings(text):
    return [int(number) for number in re.findall(r"^#(\d+) +\d", text, re.MULTILINE)]


def test_a_long_history_is_an_overview_of_at_most_a_screen(store):
    long_history(store)
    shown = command(store)
    lines = shown.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 79
    assert "1,070 closed partitions of 4,280 behaviours" in shown
    ranges = [tuple(map(int, found)) for found in re.findall(r"^#(\d+) to #(\d+) ", shown, re.MULTILINE)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 1_069
    assert [first for first, _ in ranges[1:]] == [last + 1 for _, last in ranges[:-1]]
    counts = [int(found.replace(",", "")) for found in re.findall(r": ([\d,]+) behaviours$", shown, re.MULTILINE)]
    assert counts == [4 * (last - first + 1) for first, last in ranges]
    assert f"{SECRET}, part 1068." in shown  # the newest that is learned, of the last span
    for option in ("--last N", "--partition K", "--since", "--until", "--all"):
        assert option in shown


def test_a_history_of_a_few_partitions_is_shown_whole(small):
    assert headings(command(small)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--last", 2), [28, 29]),
        (("--partition", 3, "--partition", 11), [3, 11]),
        (("--since", "1999-03-01"), [29]),  # partition k spans days 4k..4k+3 after 1998-03-16
        (("--since", "1998-03-19", "--until", "1998-03-24"), [0, 1, 2]),
        (("--until", "1998-03-19T00:00"), [0]),
        (("--until", "19980320"), [0, 1]),
        (("--until", f"{AT + 4 * DAY}"), [0, 1]),
        (("--since", "1998-03-20", "--last", 1), [29]),
        (("--all",), list(range(30))),
    ],
)
def test_chosen_partitions_are_shown_whole(store, options, expected):
    long_history(store, 30)
    with writing(store) as connection:  # the newest partition a year later
        late = {"opened_at": AT + 365 * DAY, "closed_at": AT + 366 * DAY}
        connection.execute(update(partitions).where(partitions.c.index == 29).values(**late))
    assert headings(command(store, *options)) == expected
    lines = command(store, "--ndjson", *(option for option in options if option != "--all")).splitlines()
    assert [json.loads(line)["index"] for line in lines] == expected
    whole = json.loads(command(store, "--json", *(option for option in options if option != "--all")))
    assert [period["index"] for period in whole["partitions"]] == expected
    named = {"user_id": ANN, "generation": 0, "prompt_version": "plain-1"}
    assert [json.loads(line) for line in lines] == [named | period for period in whole["partitions"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--partition", 30), "--partition 30: there is no such partition; the partitions are 0 to 29"),
        (("--since", "last week"), "--since last week: give a date such as 2026-01-31"),
        (("--until", "9e12"), "--until 9e12 is not a time between 1970 and 2100"),
        (("--json", "--ndjson"), "give one of them"),
    ],
)
def test_what_cannot_be_chosen_is_told_in_a_sentence(store, options, message):
    long_history(store, 30)
    run = CliRunner().invoke(app, ["timeline", ANN, "--store", store.url.render_as_string(), *map(str, options)])
    assert isinstance(run.exception, InputError)
    assert message in str(run.exception)


def test_more_than_a_screen_goes_through_the_pager_on_a_terminal(store, tmp_path):
    long_history(store, 30)
    leader, follower = pty.openpty()
    pager = f"cat > {tmp_path / 'paged'}"
    environment = os.environ | {"PAGER": pager, "TERM": "xterm", "LINES": "24", "COLUMNS": "80"}
    words = [sys.executable, "-m", "streams", "timeline", ANN, "--store", store.url.render_as_string(), "--all"]
    subprocess.run(words, stdin=follower, stdout=follower, env=environment, timeout=120, check=True)
    os.close(follower)
    os.close(leader)
    assert headings((tmp_path / "paged").read_text()) == list(range(30))
