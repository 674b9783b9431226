"""`stats`: every count against a store whose rows are known, and by hand."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from typer.testing import CliRunner

from fusion.worth.costs import Prices, read_costs
from interest.store.sql import insert_new, item_row, writing
from interest.store.tables import behaviors, interests, item_descriptions, item_statements, items, partitions
from interest.types import Item
from streams.cli import app
from streams.commands.stats import page
from streams.store.forget import forget
from streams.store.stats import Stats, read_stats
from streams.store.tables import offsets, source_of
from streams.store.text_review import read_cost
from tests.support.small_store import ANN, fill, interest


def counted(store) -> Stats:
    with store.connect() as connection:
        return read_stats(connection)


def test_every_count(store):
    fill(store)
    stats = counted(store)
    assert (stats.behaviors, stats.users) == (17, 2)
    assert (stats.accepted, stats.late, stats.duplicates, stats.rejected) == (17, 2, 6, 2)
    assert (stats.partitions, stats.open_caches, stats.open_behaviors) == (3, 2, 2 + 3)
    (version,) = stats.versions
    assert (version.prompt_version, version.interests) == ("plain-1", 2)
    assert version.summaries == {"llm": {"ok": 1}, "statistics": {"rejected": 1}}
    assert version.shifts == {"llm": {"ok": 1}}  # a first partition has none
    assert (version.claims, version.supported, version.supported_share) == (4, 3, 0.75)
    assert (stats.llm.calls, stats.llm.cached, stats.llm.seconds) == (5, 2, 1.5)
    assert (stats.llm.prompt_tokens, stats.llm.completion_tokens) == (500, 70)
    assert stats.llm.calls_per_1000_behaviors == 1000 * 5 / 8  # two partitions of four
    assert stats.vectors == {"e": 2}
    assert stats.representations == {"pooled:e:plain-1": 2}
    assert stats.store_bytes is not None
    assert stats.store_bytes_per_behavior == pytest.approx(stats.store_bytes / 17, abs=0.1)


def test_what_the_llm_says_of_items_is_counted_apart(store):
    fill(store)
    described = {"text": "", "model": "m", "prompt_version": "describe-1", "told": "hash", "attempt": 0}
    stated = {"user_id": ANN, "generation": 0, "index": 0, "prompt_version": "plain-1", "statements": "[]"}
    with store.begin() as connection:
        for item, outcome in (("1", "ok"), ("2", "ok"), ("3", "rejected")):
            insert_new(connection, item_descriptions, [described | {"item_id": item, "outcome": outcome}])
        insert_new(connection, item_statements, [stated])
    stats = counted(store)
    assert stats.descriptions == {"ok": 2, "rejected": 1}
    assert [version.with_statements for version in stats.versions] == [1]
    shown = "\n".join(page(stats))
    assert "descriptions               3  of items by the LLM: ok 2, rejected 1" in shown
    assert "  statements               1  interests have some" in shown


def test_items_and_users_of_a_stream_are_no_behaviours(store):
    fill(store)
    counts = {"offset": 9, "watermark": 0.0, "accepted": 9, "late": 0, "duplicates": 0, "rejected": 1, "digest": "id"}
    names = ("behaviors", "eu.behaviors", "items", "eu.items", "users")
    with store.begin() as connection:
        for name in names:
            insert_new(connection, offsets, [{"source": source_of(name), "partition": 0} | counts])
    stats = counted(store)
    assert (stats.accepted, stats.rejected) == (17 + 2 * 9, 2 + 2 * 1)


def test_an_empty_store(store):
    stats = counted(store)
    assert (stats.behaviors, stats.users, stats.partitions, stats.open_caches, stats.versions) == (0, 0, 0, 0, [])
    assert stats.llm.calls_per_1000_behaviors is None
    assert stats.store_bytes_per_behavior is None
    assert any(line.startswith("interests") and "interestream learn" in line for line in page(stats))


def test_counts_of_what_was_read_outlive_a_forgotten_user(store):
    fill(store)
    forget(store, ANN)
    stats = counted(store)
    assert (stats.behaviors, stats.users, stats.accepted, stats.partitions) == (3, 1, 17, 0)


def test_sentences_that_would_do_for_anyone_are_counted(store):
    """Six users with comedies, one with thrillers; three say nothing that is their own."""
    titles = [Item(item_id=str(at), title=f"Film {at}", categories=("Comedy",)) for at in range(6)]
    titles += [Item(item_id=str(at), title=f"Film {at}", categories=("Thriller",)) for at in range(6, 12)]
    texts = ["This user watched comedies.", "They watched a wide range of films.", "This user watched 6 comedies."]
    texts += ["This user watched Film 3.", "This user loved Film 7.", "This user watched dramas. And", "They watched"]
    with writing(store) as connection:
        insert_new(connection, items, [item_row(item) for item in titles])
        for number, text in enumerate(texts):
            user = f"user-{number}"
            first = 6 if number == 4 else 0
            rows = [
                {"user_id": user, "seq": at, "item_id": str(first + at), "action": "view", "at": float(at)}
                for at in range(6)
            ]
            insert_new(connection, behaviors, rows)
            head = {"user_id": user, "generation": 0, "index": 0, "first_seq": 0, "last_seq": 5, "reason": "count"}
            insert_new(connection, partitions, [head | {"opened_at": 0.0, "closed_at": 5.0}])
            insert_new(connection, interests, [interest(user, 0, summary=text)])
    (version,) = counted(store).versions
    assert (version.sentences_sampled, version.sentences_of_anyone) == (6, 4)
    assert counted(store) == counted(store)


def test_partitions_without_a_call_are_not_in_the_cost_of_calls(store):
    fill(store)
    sparse = {"summary_source": "statistics", "summary_outcome": "sparse", "claims": 0, "supported": 0}
    with writing(store) as connection:
        insert_new(connection, interests, [interest(ANN, 2, **sparse)])
        cost = read_cost(connection, "plain-1", "small", 0)
        worth = read_costs(connection, generation=0, prompt_version="plain-1", prices=Prices())
    assert counted(store).llm.calls_per_1000_behaviors == 1000 * 5 / 8
    assert cost is not None
    assert cost.summary_calls_per_1000 == 1000 * 5 / 8
    assert worth is not None
    assert worth.calls == 1000 * 5 / 8


def test_the_review_line_holds_texts_against_many_users_however_long_their_histories(store):
    """Twelve users of 30 partitions; the two that are drawn first say the same, the others watched other things."""
    users = sorted((f"user-{number}" for number in range(12)), key=lambda user: sha256(user.encode()).digest())
    genres = ("Comedy", "Thriller")
    with writing(store) as connection:
        films = [Item(item_id=genre, title=f"The {genre} Film", categories=(genre,)) for genre in genres]
        insert_new(connection, items, [item_row(film) for film in films])
        for place, user in enumerate(users):
            row = {"user_id": user, "item_id": genres[place > 1], "action": "view"}
            insert_new(connection, behaviors, [row | {"seq": at, "at": float(at)} for at in range(180)])
            said = "This user watched comedies." if place < 2 else "This user watched thrillers."
            for index in range(30):
                span = {"first_seq": 6 * index, "last_seq": 6 * index + 5}
                times = {"opened_at": 6.0 * index, "closed_at": 6.0 * index + 5}
                head = {"user_id": user, "generation": 0, "index": index, "reason": "count"}
                insert_new(connection, partitions, [head | span | times])
                insert_new(connection, interests, [interest(user, index, summary=said)])
    (version,) = counted(store).versions
    assert version.review is not None
    assert version.review.generic == 0.0  # one of eleven others watched comedies
    for user in users[:3]:
        forget(store, user)
    (version,) = counted(store).versions
    assert version.review is not None
    assert version.review.generic is None  # nine users: too few to say


def test_the_page_names_every_count(store):
    fill(store)
    text = "\n".join(page(counted(store)))
    for part in ("17  of 2 users", "6  dropped", "75.0 % supported", "by the LLM: ok 1", "by statistics: rejected 1"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_command_prints_one_json_object(store):
    fill(store)
    run = CliRunner().invoke(app, ["stats", "--json", "--store", store.url.render_as_string()])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert found["behaviors"] == 17
    assert found["versions"][0]["supported_share"] == 0.75
