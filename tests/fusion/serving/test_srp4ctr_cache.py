"""Kept user states: what one is keyed by, part by part, and what makes a scorer encode the user again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import Connection, Engine, update

from fusion.features.collate import BatchIndices
from fusion.features.dataset import DatasetConfig, read_dataset
from fusion.features.packed_windows import PackedBatch
from fusion.features.spec import Column
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4Ctr, Srp4CtrConfig
from fusion.serving.score import Scorer
from fusion.serving.srp4ctr_cache import UserStates, _stamps
from fusion.training.artifact import load_artifact
from fusion.training.experiment import run
from fusion.training.train import TrainConfig
from interest.store.sql import insert_new, user_row
from interest.store.tables import behaviors, items, users
from interest.types import User
from streams.store.engine import open_store
from tests.support.ctr_world import DAY, TASKS, fill, interest_vectors_of, log_of, random_rows, samples_of, spec_of

CONFIG = Srp4CtrConfig(
    encoder=FgBertConfig(positions=14, width=16), pack=5, queries=2, hidden=(16,), lifelong=True, interest=True
)
USER = 1  # of the three windows, the one that is changed


@pytest.fixture(scope="module")
def batch() -> PackedBatch:
    """Three windows of ten events, each with a longer past and three interests."""
    log = log_of(random_rows(1), 30, 40)
    spec = spec_of(log, partitions=3, text_width=32, user_columns=(Column("gender", ("F", "M")),))
    samples = samples_of(spec, log, np.arange(log.size), interest_vectors_of(log))
    read: PackedBatch = Srp4Ctr(spec, CONFIG).collator.collate(
        samples, BatchIndices(np.array([24, 49, 74]), np.ones(3, np.int64))
    )
    return read


def with_(part: object, name: str, place: object, value: float) -> object:
    changed = getattr(part, name).clone()
    changed[place] = value
    return dataclasses.replace(part, **{name: changed})


def past_only(batch: PackedBatch) -> tuple[int, int]:
    """An entry of the changed window's past whose item no window shows, nor another one's past; and the item."""
    own = batch.users
    pasts = torch.split(own.past, own.past_size.tolist())
    others = {*own.event.flatten().tolist(), *pasts[0].tolist(), *pasts[2].tolist()}
    entry = next(n for n, item in enumerate(pasts[USER].tolist()) if item not in others)
    return int(own.past_size[0]) + entry, int(pasts[USER][entry])


def test_every_part_that_a_state_is_made_of_is_in_its_key(batch: PackedBatch) -> None:
    own, before = batch.users, _stamps(batch)
    entry, older = past_only(batch)
    newest = int(own.event[USER, -1])
    text = int(own.partitions[USER, 0])
    others = {"users": [], "items": []}
    others["users"] = [
        with_(own, "event", (USER, -1), newest % 5 + 1),
        with_(own, "event", (USER, 0), 0),  # one behaviour fewer
        *(with_(own, "behavior", (USER, -1, field), 7) for field in range(own.behavior.shape[2])),
        *(with_(own, "context", (USER, count), 9.5) for count in range(own.context.shape[1])),
        *(with_(own, "profile", (USER, column), 9) for column in range(own.profile.shape[1])),
        with_(own, "past", entry, newest),
        with_(own, "past_positive", entry, 1 - float(own.past_positive[entry])),
        with_(own, "interest_vectors", (text, 3), 9.5),
        with_(own, "partitions", (USER, 0), -1),
    ]
    others["items"] = [
        with_(batch.items, name, place, 1 + int(getattr(batch.items, name)[place]))
        for item in (newest, older)
        for name, place in (("row", item), ("categories", (item, 0)), ("attributes", (item, 0)))
    ]
    assert own.profile.shape[1] == batch.items.attributes.shape[1] == 1
    for where, parts in others.items():
        for number, part in enumerate(parts):
            after = _stamps(dataclasses.replace(batch, **{where: part}))
            assert after[USER] != before[USER], (where, number)
            if where == "users":
                assert [after[0], after[2]] == [before[0], before[2]], (where, number)
    assert len(set(before)) == 3


def test_padding_is_no_part_of_the_key(batch: PackedBatch) -> None:
    short = with_(batch.users, "event", (USER, slice(0, 4)), 0)
    stamps = [
        _stamps(dataclasses.replace(batch, users=users))[USER]
        for users in (short, with_(short, "behavior", (USER, slice(0, 4)), 3))
    ]
    assert stamps[0] == stamps[1] != _stamps(batch)[USER]


def profile(connection: Connection) -> None:
    connection.execute(update(users).where(users.c.user_id == "u2").values(attributes='{"gender": "M"}'))


def catalogue(connection: Connection) -> None:
    """Of the one item that the user met long ago, and nobody else who is scored."""
    connection.execute(update(items).where(items.c.item_id == "i38").values(categories='["Horror"]'))


def late(connection: Connection) -> None:
    """It happened before the user's newest behaviour, and only came in now."""
    event = {"user_id": "u2", "seq": 25, "item_id": "i4", "action": "rate", "at": 40 * DAY, "value": 1.0}
    insert_new(connection, behaviors, [event])


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, list[Path]]:
    folder = tmp_path_factory.mktemp("states")
    store = open_store(f"sqlite:///{folder / 'store.db'}")
    rows = [(u, 38 if (u, n % 25) == (2, 0) else i % 38, at, v) for n, (u, i, at, v) in enumerate(random_rows(6))]
    fill(store, rows, interests=True)
    men = [User(user_id=f"u{n}", attributes={"gender": "M"}) for n in range(1, 30, 2)]
    with store.begin() as connection:
        insert_new(connection, users, [user_row(user) for user in men])
    with store.connect() as connection:
        data = read_dataset(connection, DatasetConfig(tasks=TASKS, history=10, interest=True, split="user"))
    folders = [folder / "first", folder / "second"]
    for seed, out in enumerate(folders):
        run(data, CONFIG, TrainConfig(epochs=1, batch_size=128, seed=seed), split="user", folder=out)
    return store, folders


def test_a_state_is_made_anew_after_what_it_was_made_from_has_changed(artifacts: tuple[Engine, list[Path]]) -> None:
    store, (folder, other) = artifacts
    scorer, loaded = Scorer(load_artifact(folder)), load_artifact(folder)
    pairs = [(user, f"i{i}") for user in ("u2", "u3") for i in range(5)]
    with store.connect() as connection:
        last = scorer(connection, pairs, 1e9)
    states = scorer.states
    assert isinstance(states, UserStates)
    for number, change in enumerate((profile, catalogue, late), 1):
        with store.begin() as connection:
            change(connection)
        with store.connect() as connection:
            scores = scorer(connection, pairs, 1e9)
            np.testing.assert_allclose(scores, Scorer(loaded)(connection, pairs, 1e9), atol=1e-6)
        assert (states.made, states.taken) == (2 + number, number), change  # u2's is made, u3's is taken
        assert np.abs(scores[:5] - last[:5]).max() > 0, change
        np.testing.assert_allclose(scores[5:], last[5:], atol=1e-6)
        last = scores
    second = Scorer(load_artifact(other))
    with store.connect() as connection:
        theirs = second(connection, pairs, 1e9)
    assert isinstance(second.states, UserStates)
    assert (second.states.made, second.states.taken) == (2, 0)
    assert np.abs(theirs - last).max() > 0
