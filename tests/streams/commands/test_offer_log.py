"""A log of offers in AntM2C's columns, from its CSV to a trained model, without --map."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from benchmarks.rig.antm2c import COLUMNS, plant
from fusion.encoders.item_text import ITEM_TEMPLATE
from fusion.features.labels import UNLABELLED, LabelRule
from fusion.features.log import read_log
from fusion.features.match.item_vectors import item_texts
from fusion.features.offers import with_offers
from fusion.interests.item_vectors import encode_items, texts_without_vectors
from fusion.training.artifact import load_artifact
from interest.store.sql import read_items
from interest.store.tables import behaviors, offers
from interest.types import KNOWN_ACTIONS
from streams.store.engine import open_store
from tests.support.command_line import run
from tests.support.hashed_encoder import HashedEncoder


def test_a_log_of_offers_is_replayed_and_trained_on(tmp_path: Path) -> None:
    truth = plant(0, users=40, each=40)
    truth.write(tmp_path / "antm2c.csv")
    url = f"sqlite:///{tmp_path / 'store.db'}"
    replayed = run("replay", tmp_path / "antm2c.csv", "--store", url, "--no-llm")
    assert replayed.exit_code == 0, replayed.output
    taken = int(truth.label.sum())
    known = 4 * 40  # names a user, once each
    for told in (
        f"of this log {taken + known:,} behaviours",
        f"{1600 - taken:,} offers that nobody took",
        "items with titles",
    ):
        assert told in replayed.output
    engine = open_store(url, create=False)
    with engine.connect() as connection:
        actions = connection.execute(select(behaviors.c.action, func.count()).group_by(behaviors.c.action))
        assert dict(iter(actions)) == {"click": taken, "pay": 40, "visit": 40, "search": 80}
        item = truth.items[int(truth.item[0])]
        title = truth.titles[int(truth.item[0])]
        found = read_items(connection, [item])[item]
        assert (found.title, found.attributes) == (title, {"item_entity_names": title.split()[0]})
        held = connection.scalar(select(func.count()).select_from(offers))
    engine.dispose()
    again = run("replay", tmp_path / "antm2c.csv", "--store", url, "--no-llm")
    assert "nothing new" in again.output
    assert f"{held:,} offers" in again.output
    options = ("--store", url, "--label", "action=click", "--history", 10, "--min-history", 2, "--epochs", 1)
    trained = run("train", "din", "--out", tmp_path / "m", *options, "--match", "no")
    assert trained.exit_code == 0, trained.output
    assert "scene videos auc" in trained.output


@pytest.mark.parametrize("label", ["2", "x", ""])
def test_a_label_that_is_not_0_or_1_is_set_aside(tmp_path: Path, label: str) -> None:
    rows = [("u", f"i{n}", "2023-08-06 08:00:00", "1", "", "", "", "", "tea", "home") for n in range(3)]
    rows[1] = (*rows[1][:3], label, *rows[1][4:])
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    replayed = run("replay", tmp_path / "a.csv", "--store", f"sqlite:///{tmp_path / 'store.db'}", "--no-llm")
    assert "of this log 2 behaviours; 0 duplicates; 1 rejected" in replayed.output


@pytest.mark.parametrize(
    ("cell", "options", "names"),
    [
        ("green tea|tea pot", (), "green tea|tea pot"),
        ("['green tea', 'tea pot']", (), "green tea|tea pot"),
        ("green tea$$tea pot$$green tea$$", ("--entity-separator", "$$"), "green tea|tea pot"),
        ("", (), None),
    ],
)
def test_what_an_item_is_about_is_an_attribute_that_its_text_tells(
    tmp_path: Path, cell: str, options: tuple[str, ...], names: str | None
) -> None:
    rows = [("u", "i", "2023-08-06 08:00:00", "1", "", "", "", cell, "Tea for two", "home")]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    url = f"sqlite:///{tmp_path / 'store.db'}"
    assert run("replay", tmp_path / "a.csv", "--store", url, "--no-llm", *options).exit_code == 0
    engine = open_store(url, create=False)
    with engine.connect() as connection:
        catalogue = read_items(connection)
        told = item_texts(connection, ITEM_TEMPLATE, ["i"], catalogue)
    engine.dispose()
    assert catalogue["i"].attributes == ({} if names is None else {"item_entity_names": names})
    assert ("tea pot" in told[0]) == (names is not None)


def test_stats_count_the_offers(tmp_path: Path) -> None:
    rows = [("u", f"i{n}", f"2023-08-06 08:00:0{n}", str(n % 2), "", "", "", "", "tea", "home") for n in range(5)]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    store = ("--store", f"sqlite:///{tmp_path / 'store.db'}")
    assert run("replay", tmp_path / "a.csv", "--no-llm", *store).exit_code == 0
    told = json.loads(run("stats", "--json", *store).output)
    assert (told["behaviors"], told["offers"], told["accepted"]) == (2, 3, 2)
    assert "offers" in run("stats", *store).output


def test_what_was_known_at_an_offer_is_history_from_then_on_and_no_sample(tmp_path: Path) -> None:
    truth = plant(1, users=6, each=30)
    truth.write(tmp_path / "a.csv")
    header, *lines = (tmp_path / "a.csv").read_text().splitlines()
    (tmp_path / "b.csv").write_text("\n".join([header, *reversed(lines)]) + "\n")  # sorted first
    read = []
    for name in ("a", "b"):
        url = f"sqlite:///{tmp_path / name}.db"
        assert run("replay", tmp_path / f"{name}.csv", "--no-llm", "--store", url).exit_code == 0
        engine = open_store(url, create=False)
        with engine.connect() as connection:
            log = with_offers(connection, read_log(connection))
            titles = {item: found.title for item, found in read_items(connection).items()}
        engine.dispose()
        users = [log.users[user] for user in log.user]
        read.append(sorted(zip(log.at.tolist(), [log.items[item] for item in log.item], users, strict=True)))
        names = np.array([action in KNOWN_ACTIONS for action in log.actions])[log.action]
        for told, many in (("action=click", 0), ("action=search", 2), ("scene=videos", 0), ("scene!=videos", 0)):
            labels = LabelRule.parse(told).on(log).labels(log)
            assert (labels[names] != UNLABELLED).sum() == many * len(log.users)
        for user, id_ in enumerate(log.users):
            rows = np.arange(log.starts[user], log.starts[user + 1])
            best, second = truth.likes[int(id_[1:])]
            mine = [titles[log.items[log.item[row]]] for row in rows if names[row]]
            assert mine == [f"{best} shop", f"{second} club", best, second]
            tenth = float(np.sort(truth.at[truth.user == int(id_[1:])])[10])
            assert {float(log.at[row]) for row in rows if names[row]} == {tenth}
            first = rows[names[rows]][0]
            assert (log.at[rows[0] : first] < tenth).all()  # the offer that says so comes after what it says
    assert read[0] == read[1]
    assert len(read[0]) == 6 * 30 + 6 * 4


def test_what_was_known_is_matched_with_the_offer_by_its_text(tmp_path: Path) -> None:
    truth = plant(1, users=30, each=30)
    truth.write(tmp_path / "a.csv")
    url, out, encoder = f"sqlite:///{tmp_path / 'store.db'}", tmp_path / "din", HashedEncoder()
    assert run("replay", tmp_path / "a.csv", "--no-llm", "--store", url).exit_code == 0
    engine = open_store(url, create=False)
    with engine.connect() as connection:
        texts = texts_without_vectors(connection, encoder.id, ITEM_TEMPLATE)
    for best, second in truth.likes:
        assert all(any(name in text for text in texts) for name in (f"{best} shop", f"{second} club"))
    encode_items(engine, encoder, texts)
    engine.dispose()
    trained = run("train", "din", "--store", url, "--label", "action=click", "--out", out, "--epochs", 1)
    assert trained.exit_code == 0, trained.output
    assert "items' texts by hashed, and what is known of users (pay, visit, search)" in trained.output
    assert {"known_most", "known_mean"} <= set(load_artifact(out).spec.dense)


def test_a_store_that_was_filled_without_what_was_known_says_how_it_goes_on(tmp_path: Path) -> None:
    plant(1, users=3, each=20).write(tmp_path / "a.csv")
    log = ("replay", tmp_path / "a.csv", "--no-llm", "--store", f"sqlite:///{tmp_path / 'store.db'}")
    assert run(*log, "--no-entities").exit_code == 0
    refused = run(*log)
    assert refused.exit_code != 0
    assert "goes on with --no-entities" in str(refused.exception)
    assert "nothing new" in run(*log, "--no-entities").output


def test_a_name_is_a_behaviour_once_in_a_log_of_daily_files(tmp_path: Path) -> None:
    plant(1, users=6, each=60).write(tmp_path / "whole.csv")
    header, *lines = (tmp_path / "whole.csv").read_text().splitlines()
    for name, part in (("first", lines[:200]), ("second", lines[200:])):
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *part]) + "\n")
    held = []
    for store, files in (("one", ["whole"]), ("two", ["first", "second", "first", "second"])):
        url = f"sqlite:///{tmp_path / store}.db"
        for name in files:
            told = run("replay", tmp_path / f"{name}.csv", "--no-llm", "--store", url).output
            names = 24 * (name == "second" and "nothing new" not in told)  # 4 of 6 users, which the first file has too
            assert ("24 of these duplicates are names" in told) == bool(names)
            assert "dropped as a duplicate" not in told
            assert "whole minutes" not in told
        engine = open_store(url, create=False)
        with engine.connect() as connection:
            query = select(behaviors).order_by(behaviors.c.user_id, behaviors.c.seq)
            held.append([tuple(row) for row in connection.execute(query)])
        engine.dispose()
    assert held[0] == held[1]
    assert sum(row.count("pay") for row in held[0]) == 6
    assert "nothing new" in told
    assert "24 duplicates" in told  # 4 names of 6 users, which the first file has as well


def written(
    path: Path,
    columns: tuple[str, ...] = COLUMNS,
    *,
    without: tuple[str, ...] = (),
    cell: str = "",
    times: str = "2023-08-06 08:00:0{}",
) -> Path:
    """Four offers of which two are taken, under these names of AntM2C's columns; `cell` is what was searched."""
    rows = [("u", f"i{n}", times.format(n), str(n % 2), "", "", cell, "", "tea", "home") for n in range(4)]
    kept = [place for place, name in enumerate(COLUMNS) if name not in without]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[row[place] for place in kept] for row in (columns, *rows)])
    return path


def counted(url: str) -> tuple[dict[str, int], int]:
    """Behaviours of each action, and offers that nobody took."""
    engine = open_store(url, create=False)
    with engine.connect() as connection:
        actions = connection.execute(select(behaviors.c.action, func.count()).group_by(behaviors.c.action))
        held = dict(iter(actions)), connection.scalar(select(func.count()).select_from(offers)) or 0
    engine.dispose()
    return held


def test_names_of_daily_files_with_times_in_minutes_are_no_repetitions(tmp_path: Path) -> None:
    """Nothing that happened twice was dropped, so that nothing is to be replayed another way."""
    url = f"sqlite:///{tmp_path / 'days.db'}"
    for day in ("06", "07"):
        log = written(tmp_path / f"{day}.csv", cell="green tea", times=f"2023-08-{day} 08:1{{}}:00")
        told = run("replay", log, "--no-llm", "--store", url).output
        assert "whole minutes" not in told
    assert "1 of these duplicates are names" in told


def test_names_of_columns_are_read_in_either_case(tmp_path: Path) -> None:
    columns = tuple(name.title() for name in COLUMNS)  # Log_Time, Label, ...
    url = f"sqlite:///{tmp_path / 'store.db'}"
    told = run("replay", written(tmp_path / "a.csv", columns, cell="tea|cars"), "--store", url, "--no-llm").output
    assert counted(url) == ({"click": 2, "search": 2}, 2)
    assert "items with titles" in told


ENTITY_COLUMNS = ("bill_entity_seq", "service_entity_seq", "query_entity_seq")


@pytest.mark.parametrize(
    ("without", "named", "lacks"),
    [
        (("scene",), "label, bill_entity_seq", "no column scene"),
        (("scene", *ENTITY_COLUMNS), "label", "no column scene"),
        (("label",), "bill_entity_seq", "no column label"),
    ],
)
def test_a_log_that_is_nearly_one_of_offers_is_refused(
    tmp_path: Path, without: tuple[str, ...], named: str, lacks: str
) -> None:
    refused = run("replay", written(tmp_path / "a.csv", without=without), "--no-llm", "--store", "sqlite://")
    assert refused.exit_code != 0
    for told in (named, lacks, "--map label=", "--action NAME"):
        assert told in str(refused.exception)


@pytest.mark.parametrize(
    ("options", "actions", "not_taken"),
    [
        (("--map", "label=label"), {"click": 2, "search": 2}, 2),
        (("--map", "label=label", "--action", "play"), {"play": 2, "search": 2}, 2),
        (("--action", "view"), {"view": 4}, 0),
        (("--map", "value=label"), {"rate": 4}, 0),
    ],
)
def test_what_a_label_means_can_be_said(
    tmp_path: Path, options: tuple[str, ...], actions: dict[str, int], not_taken: int
) -> None:
    log, url = written(tmp_path / "a.csv", without=("scene",), cell="tea|cars"), f"sqlite:///{tmp_path / 'store.db'}"
    replayed = run("replay", log, "--no-llm", "--store", url, *options)
    assert replayed.exit_code == 0, replayed.exception
    assert counted(url) == (actions, not_taken)


def test_a_label_beside_actions_says_which_of_them_were_taken(tmp_path: Path) -> None:
    log, url = tmp_path / "a.csv", f"sqlite:///{tmp_path / 'store.db'}"
    rows = [f"u,i{n},{n + 1_700_000_000},{('play', 'buy')[n // 2]},{n % 2}" for n in range(4)]
    log.write_text("\n".join(["user,item,time,action,label", *rows]) + "\n")
    assert "the column action is read as the action" in str(run("replay", log, "--no-llm", "--store", url).exception)
    assert run("replay", log, "--no-llm", "--store", url, "--map", "label=label").exit_code == 0
    assert counted(url) == ({"play": 1, "buy": 1}, 2)


def test_a_label_of_other_values_is_a_column(tmp_path: Path) -> None:
    log, url = tmp_path / "a.csv", f"sqlite:///{tmp_path / 'store.db'}"
    log.write_text("user,item,time,label\nu,i,1700000000,3\nu,j,1700000001,1\n")
    assert run("replay", log, "--no-llm", "--store", url).exit_code == 0
    assert counted(url) == ({"view": 2}, 0)


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("tea|cars", "'tea|cars' -> 2 names: 'tea', 'cars'"),
        ("tea cars books", "'tea cars books' -> 1 name: 'tea cars books'"),
        ("tea\x01cars", r"'tea\x01cars' -> 1 name: 'tea\x01cars'"),
    ],
)
def test_how_a_cell_of_names_was_split_is_shown_and_no_column_that_is_read_is_called_unused(
    tmp_path: Path, cell: str, told: str
) -> None:
    log = written(tmp_path / "a.csv", cell=cell)
    replayed = run("replay", log, "--no-llm", "--store", f"sqlite:///{tmp_path / 'store.db'}")
    assert f"query_entity_seq    search   {told}" in replayed.output
    assert "not used" not in replayed.output
    (tmp_path / "i.csv").write_text("item_id,title\ni0,Tea\n")
    again = run(
        "replay", log, "--items", tmp_path / "i.csv", "--no-entities", "--no-llm", "--store", "sqlite://"
    ).output  # fmt: skip
    unused = (*ENTITY_COLUMNS, "item_entity_names", "item_title")
    assert f"not used: {', '.join(unused)}" in again
