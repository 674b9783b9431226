"""`interestream review` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from sqlalchemy import Engine

from interest.errors import InputError
from interest.review.texts import read_others, read_texts
from interest.store.sql import insert_new, item_row, writing
from interest.store.tables import behaviors, interests, items, partitions, usage
from interest.types import Item
from interest.write.rates import freeze_rates, rates_of
from tests.support.command_line import output_of, run
from tests.support.small_store import interest

GROUPS = ("Drama", "Comedy", "Thriller", "Western")


@pytest.fixture
def reviewed(store: Engine) -> Engine:
    """Sixteen users with two partitions each: a favourite of their own, one text in four replaced."""
    catalogue = [
        Item(item_id=f"{name}{at}", title=f"<b>{name}</b> {at}", categories=(name,))
        for name in GROUPS
        for at in range(6)
    ]
    rows, heads, texts = [], [], []
    for number in range(16):
        user, liked = f"user-{number}", GROUPS[number % 4]
        for index in range(2):
            chosen = [(f"{name}{at}", 5.0 if name == liked else 2.0) for name in GROUPS for at in range(3)]
            for at, (item, value) in enumerate(chosen):
                seq = 12 * index + at
                row = {"user_id": user, "seq": seq, "item_id": item, "action": "rate", "at": float(seq)}
                rows.append(row | {"value": value, "scene": None, "event_id": None})
            head = {"user_id": user, "generation": 0, "index": index, "reason": "count"}
            times = {"opened_at": 12.0 * index, "closed_at": 12.0 * index + 11}
            heads.append(head | {"first_seq": 12 * index, "last_seq": 12 * index + 11} | times)
            said = (
                "This user enjoyed dramas." if number in (1, 9) else f"This user loved {liked.lower()} titles the most."
            )
            changes = (
                {"summary_source": "statistics", "summary_outcome": "rejected"} if number in (6, 7, 14, 15) else {}
            )
            texts.append(interest(user, index, summary=said, evidence="[]", **changes))
    with writing(store) as connection:
        insert_new(connection, items, [item_row(item) for item in catalogue])
        insert_new(connection, behaviors, rows)
        insert_new(connection, partitions, heads)
        insert_new(connection, interests, texts)
        counted = {"calls": 30, "cached": 0, "prompt_tokens": 10, "completion_tokens": 5, "seconds": 1.0}
        insert_new(connection, usage, [{"model": "small", "prompt_version": "plain-1", "kind": "summary"} | counted])
    return store


def test_the_review_of_a_version(reviewed: Engine) -> None:
    (found,) = json.loads(run("review", "--store", reviewed.url, "--no-retrieval", "--json").stdout)
    assert (found["prompt_version"], found["model"], found["texts"], found["kept"]) == ("plain-1", "small", 32, 24)
    assert found["outcomes"] == {"ok": 24, "rejected": 8}
    assert found["replaced"] == 0.25
    assert found["distinct"] == round(5 / 24, 4)
    assert found["coverage"] == found["generic"] + 0.8333 == pytest.approx(0.8333)
    assert found["contradictions"] == round(4 / 24, 4)  # user-1's comedies are loved, and "dramas" written
    assert found["specificity"]["texts"] == 12
    assert found["specificity"]["accuracy"] > found["specificity"]["chance"]
    assert found["cost"]["summary_calls_per_1000"] == round(1000 * 30 / (32 * 12), 2)
    assert [one["user_id"] for one in found["worst"]] == ["user-1", "user-1", "user-9", "user-9"]
    assert "calls Drama liked" in found["worst"][0]["faults"][0]


def test_texts_are_read_with_the_base_rates_that_they_were_written_by(reviewed: Engine) -> None:
    rates = freeze_rates(reviewed)
    version = f"plain-2@{rates.version}+chained"
    said = "This user rated more dramas than others."
    with writing(reviewed) as connection:
        connection.execute(interests.update().values(prompt_version=version, summary=said))
        assert rates_of(connection, version) == rates
        assert [rates_of(connection, name) for name in ("plain-1", "plain-2", "plain-2@00000000")] == [None] * 3
        texts = read_texts(connection, version, "small", 0, 100)
        others = read_others(connection, version, "small", 0, 61)
    assert all(text.evidence.rates == rates for text in texts)
    assert all(one.rates == rates for _, one in others)
    assert len(others) == len({user for user, _ in others}) == 16
    (found,) = json.loads(run("review", "--store", reviewed.url, "--no-retrieval", "--json").stdout)
    assert found["generic"] == 0.0  # all have dramas, and nobody more of them than others


def test_a_version_is_found_by_its_name_where_there_is_one_of_it(reviewed: Engine) -> None:
    def reviewed_by(name: str) -> list[str]:
        told = json.loads(run("review", "--store", reviewed.url, "--no-retrieval", "--json", *given(name)).stdout)
        return [one["prompt_version"] for one in told]

    def given(name: str) -> tuple[str, str]:
        return "--prompt-version", name

    with writing(reviewed) as connection:
        for index, version in enumerate(("plain-3@00000001", "plain-2@00000001+chained")):
            of_one = interests.update().where(interests.c.index == index)
            connection.execute(of_one.values(prompt_version=version))
    assert reviewed_by("plain-3") == reviewed_by("plain-3@00000001") == ["plain-3@00000001"]
    assert reviewed_by("plain-2") == reviewed_by("plain-2+chained") == ["plain-2@00000001+chained"]
    with writing(reviewed) as connection:
        of_some = interests.update().where(interests.c.user_id == "user-1")
        connection.execute(of_some.where(interests.c.index == 0).values(prompt_version="plain-3@00000002"))
    result = run("review", "--store", reviewed.url, "--no-retrieval", *given("plain-3"))
    assert isinstance(result.exception, InputError)
    assert "several versions of plain-3; give one: plain-3@00000001, plain-3@00000002" in str(result.exception)
    assert reviewed_by("plain-3@00000002") == ["plain-3@00000002"]


def test_how_shifts_ended_is_shown_beside_summaries(reviewed: Engine, tmp_path: Path) -> None:
    page = tmp_path / "review.html"
    with writing(reviewed) as connection:
        of_some = interests.update().where(interests.c.index == 1, interests.c.user_id.in_(["user-1", "user-2"]))
        connection.execute(of_some.values(shift_outcome="unchanged"))
    text = output_of("review", "--store", reviewed.url, "--no-retrieval", "--page", page)
    assert "outcomes: ok 24, rejected 8" in text
    assert "shifts: ok 14, unchanged 2" in text
    assert "<th>shifts</th><td></td><td>ok 14, unchanged 2</td>" in page.read_text()


def test_every_step_is_told(reviewed: Engine) -> None:
    said = run("review", "--store", reviewed.url, "--no-retrieval").stderr
    steps = ("Reading the texts of plain-1: 32", "Reading partitions of others: 16", "Reviewing plain-1: 24/24")
    assert [step for step in (*steps, "Looking for their users: 48/48") if step not in said] == []


def test_pages_show_what_the_store_holds_and_run_none_of_it(reviewed: Engine, tmp_path: Path) -> None:
    page, sample = tmp_path / "review.html", tmp_path / "sample.md"
    with writing(reviewed) as connection:
        connection.execute(
            interests.update().where(interests.c.user_id == "user-1").values(summary="<script>dramas</script> enjoyed.")
        )
    text = output_of(
        "review", "--store", reviewed.url, "--no-retrieval", "--page", page, "--sample", 3, "--out", sample
    )
    assert "contradictions" in text
    assert "<script>" not in page.read_text()
    assert "plain-1 by small" in page.read_text()
    assert sample.read_text().count("\n## ") == 3
    assert "<b>" not in sample.read_text()
    assert r"5 \<b\>" in sample.read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sample", 3), "--sample and --out go together"),
        (("--language", "fr"), "no texts in 'fr'"),
        (("--prompt-version", "plain-9", "--encoder", "nowhere"), "it has plain-1 by small"),  # said before
        (("--encoder", "nowhere"), "--no-retrieval"),
    ],
)
def test_what_cannot_be_reviewed_is_told(reviewed: Engine, options: tuple[object, ...], said: str) -> None:
    result = run("review", "--store", reviewed.url, *options)
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)


@pytest.mark.parametrize("options", [("--page", "FILE"), ("--sample", 3, "--out", "FILE")])
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("nowhere/x.html", "there is no folder .*nowhere; make it first, or name another file"),
        ("taken/x.html", "taken is not a folder"),
        (".", "is a folder; give the name of a file"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_anything_is_read(
    tmp_path: Path, options: tuple[object, ...], file: str, said: str
) -> None:
    (tmp_path / "taken").touch()
    named = [str(tmp_path / file) if word == "FILE" else word for word in options]
    result = run("review", "--store", f"sqlite:///{tmp_path / 'none.db'}", *named)  # there is no such store either
    assert isinstance(result.exception, InputError)
    assert re.search(f"{named[-2]} .*{said}", str(result.exception))


def test_what_fails_to_be_written_in_the_end_has_been_printed(reviewed: Engine, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.symlink_to(tmp_path / "nowhere" / "x.html")
    result = run("review", "--store", reviewed.url, "--no-retrieval", "--json", "--page", page)
    assert json.loads(result.stdout)[0]["prompt_version"] == "plain-1"
    assert isinstance(result.exception, InputError)
    assert "cannot be written" in str(result.exception)


def test_stats_has_one_line_of_it(reviewed: Engine) -> None:
    assert "review" in output_of("stats", "--store", reviewed.url)
    (version,) = json.loads(output_of("stats", "--store", reviewed.url, "--json"))["versions"]
    assert version["review"]["sampled"] == 24
    assert version["review"]["contradictions"] == round(4 / 24, 4)
