"""Vocabularies: which row is whose, and that nothing but what was there decides it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fusion.features.log import Log
from fusion.features.spec import FIRST, PADDING, UNKNOWN, Column, FeatureSpec, fit_spec, item_table, profile_table
from fusion.features.tasks import parse_tasks
from interest.types import Item, User
from tests.support.ctr_world import RULE, TASKS, catalogue, log_of, profiles, random_rows


def fitted(
    log: Log, train: np.ndarray, book: dict[str, Item], people: dict[str, User], edges: tuple[float, ...] | None = None
) -> FeatureSpec:
    return fit_spec(
        log, RULE.labels(log), train, book, people, tasks=TASKS, history=5, min_history=0, value_edges=edges
    )


@pytest.fixture(scope="module")
def log() -> Log:
    log = log_of(random_rows(1), 30, 40)
    return dataclasses.replace(log, actions=["watch", "buy", "rate"], action=(np.arange(log.size) % 3).astype(np.int32))


def test_row_0_is_padding_row_1_is_unknown_and_texts_follow_in_order(log: Log) -> None:
    assert (PADDING, UNKNOWN, FIRST) == (0, 1, 2)
    column = Column("colour", ("blue", "red"))
    assert column.rows() == {"blue": 2, "red": 3}
    assert column.size == 4
    train = log.item < 30
    spec = fitted(log, train, catalogue(40), profiles(30))
    assert spec.actions.texts == ("buy", "rate", "watch")
    assert spec.categories.texts == ("Action", "Comedy", "Drama", "Horror")
    assert [own.name for own in spec.item_columns] == ["release_year"]
    assert spec.item_columns[0].texts == tuple(str(1990 + n) for n in range(7))
    assert spec.user_columns == ()  # all that have a gender have the same: it tells nobody apart
    assert (spec.trained_items, spec.item_rows) == (30, 32)
    assert set(spec.items[:30]) == {f"i{n}" for n in range(30)}
    table = item_table(spec, ["i39", spec.items[0], "stranger", spec.items[29]], catalogue(40))
    assert table.row.tolist() == [PADDING, UNKNOWN, FIRST, UNKNOWN, FIRST + 29]
    assert table.number.tolist()[:4] == [-1, spec.items.index("i39"), 0, -1]
    assert table.attributes[0].tolist() == [PADDING]
    assert table.attributes[3].tolist() == [UNKNOWN]
    assert not table.categories[[0, 3]].any()


def test_what_the_vocabulary_lacks_is_its_unknown_row(log: Log) -> None:
    everything = np.ones(log.size, bool)
    people = {f"u{n}": User(user_id=f"u{n}", attributes={"gender": "FM"[n % 2]}) for n in range(20)}
    spec = fitted(log, everything, catalogue(40), people)
    assert spec.user_columns == (Column("gender", ("F", "M")),)
    strange = {"u0": User(user_id="u0", attributes={"gender": "X"}), "u1": User(user_id="u1", attributes={})}
    assert profile_table(spec, ["u2", "u3", "u25"], people).tolist() == [[FIRST], [FIRST + 1], [UNKNOWN]]
    assert profile_table(spec, ["u0", "u1"], strange).tolist() == [[UNKNOWN], [UNKNOWN]]
    new = Item(item_id="i1", title="", categories=("Drama", "Western"), attributes={"release_year": "1890"})
    table = item_table(spec, ["i1"], {"i1": new})
    assert table.categories[1].tolist() == [FIRST + 2, UNKNOWN, *[PADDING] * 6]
    assert table.attributes[1].tolist() == [UNKNOWN]


def test_vocabularies_do_not_depend_on_the_order_of_catalogue_profiles_or_actions(log: Log) -> None:
    everything = np.ones(log.size, bool)
    book = catalogue(40) | {"i3": Item(item_id="i3", title="", categories=("Zoo", "Art"), attributes={"b": "1"})}
    book["i4"] = Item(item_id="i4", title="", attributes={"b": "2", "a": "y"})
    book["i6"] = Item(item_id="i6", title="", attributes={"a": "x"})
    people = {f"u{n}": User(user_id=f"u{n}", attributes={"age": str(n), "gender": "FM"[n % 2]}) for n in range(20)}
    spec = fitted(log, everything, book, people)
    assert [own.name for own in spec.item_columns] == ["a", "b", "release_year"]
    renumbered = dataclasses.replace(log, actions=log.actions[::-1], action=2 - log.action)
    other = fitted(renumbered, everything, dict(reversed(book.items())), dict(reversed(people.items())))
    assert other == spec
    for column in (spec.categories, spec.actions, *spec.item_columns, *spec.user_columns):
        assert list(column.texts) == sorted(set(column.texts))


def test_a_spec_from_before_tasks_had_names_is_read_as_one_task(log: Log, tmp_path: Path) -> None:
    spec = fitted(log, np.ones(log.size, bool), catalogue(40), profiles(30))
    spec.save(tmp_path / "spec.json")
    assert FeatureSpec.load(tmp_path / "spec.json") == spec
    stored = msgspec.json.decode((tmp_path / "spec.json").read_bytes())
    (task,) = stored.pop("tasks")
    (tmp_path / "spec.json").write_bytes(msgspec.json.encode(stored | {"label": task["rule"]}))
    old = FeatureSpec.load(tmp_path / "spec.json")
    assert old == spec
    assert old.label == RULE


def test_a_spec_from_before_rules_knew_of_offers_is_read_as_it_was_trained(log: Log, tmp_path: Path) -> None:
    """Then `offered` was an action of histories. Its row stays: the weights have it."""
    tasks = parse_tasks(["click=action=watch if value>=2", "here=scene=home", "like=value>=4"])
    spec = fitted(log, np.ones(log.size, bool), catalogue(40), profiles(30))
    column = msgspec.structs.replace(spec.actions, texts=("offered", "watch"))
    spec = msgspec.structs.replace(spec, actions=column, tasks=tasks)
    spec.save(tmp_path / "spec.json")
    assert b"offers" not in (tmp_path / "spec.json").read_bytes()
    old = FeatureSpec.load(tmp_path / "spec.json")
    assert [task.rule.offers for task in old.tasks] == [True, False, False]
    assert old.actions == column
    old.save(tmp_path / "spec.json")
    assert FeatureSpec.load(tmp_path / "spec.json") == old


def test_only_training_events_decide(log: Log) -> None:
    """Later values, items and users may be anything."""
    train = log.position() < 15
    spec = fitted(log, train, catalogue(40), profiles(30))
    changed = dataclasses.replace(log, value=np.where(train, log.value, 99.0).astype(np.float32))
    assert fitted(changed, train, catalogue(40), profiles(30)) == spec
    kept = fitted(log, train, catalogue(40), profiles(30), (0.5, 2.5))
    assert kept == msgspec.structs.replace(spec, value_edges=(0.5, 2.5))
    assert kept.value_rows == 3 + FIRST
