"""Laws of offers that nobody took: samples and statistics of items, and nobody's past, partition or pre-training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sqlalchemy import Engine, func, select

from fusion.encoders.item_text import ITEM_TEMPLATE
from fusion.features.dataset import Dataset, DatasetConfig, read_dataset, read_labelled
from fusion.features.impressions import impressions_of
from fusion.features.keys.spec import KeyChoice
from fusion.features.labels import NEGATIVE, POSITIVE, UNLABELLED
from fusion.features.log import Log, read_log
from fusion.features.match.features import MatchSpec
from fusion.features.offers import with_offers
from fusion.features.splits import TEST, TRAIN
from fusion.features.tasks import Task, parse_tasks
from fusion.models.din import DinConfig
from fusion.models.kv.model import KvConfig
from fusion.models.protocol import ModelConfig
from fusion.serving.common_space import CommonSpace
from fusion.serving.live import LiveScorer
from fusion.serving.past_statistics import PastStatistics
from fusion.serving.score import current_samples
from fusion.training.train import predict
from interest.store.sql import insert_new, item_row, read_items
from interest.store.tables import behaviors, items, offers, partitions
from interest.types import KNOWN_ACTIONS, OFFERED, Behavior, Item
from streams.store.engine import open_store
from streams.store.heads import read_head
from streams.ubsp.ingest import Ingest, Position
from streams.ubsp.policy import Policy
from tests.support import live_world as live
from tests.support.ctr_world import DAY, catalogue, log_of, meaning, random_rows, samples_of, spec_of
from tests.support.partitioning import content

CLICKS = Task.parse("action=click")
NOW = 230 * DAY


def happened(seed: int = 0, users: int = 12, each: int = 60) -> list[Behavior]:
    """Offers in order of time, a third of them taken."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.integers(0, 200 * 86_400, users * each)).astype(float)
    return [
        Behavior(
            user_id=f"u{rng.integers(users)}", item_id=f"i{rng.integers(30)}",
            action="click" if rng.random() < 0.35 else OFFERED, at=time, scene=("home", "search")[rng.integers(2)],
        )
        for time in at
    ]  # fmt: skip


def ingest(engine: Engine, rows: list[Behavior], chunk: int) -> None:
    work, position = Ingest(engine, Policy(count=5)), Position()
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        position = work.commit(work.fold(part), "log:a", position, start + len(part), rejected=0)


def test_partitions_and_behaviours_are_those_without_the_offers(store: Engine, tmp_path: Path) -> None:
    rows = happened()
    ingest(store, rows, 50)
    other_store = open_store(f"sqlite:///{tmp_path / 'other.db'}")
    ingest(other_store, [row for row in rows if row.action != OFFERED], 33)
    for table in (behaviors, partitions):
        query = select(table).order_by(*table.primary_key.columns)
        with store.connect() as one, other_store.connect() as other:
            assert one.execute(query).all() == other.execute(query).all()
    other_store.dispose()
    with store.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(offers)) == sum(r.action == OFFERED for r in rows)


def test_an_offer_sees_the_behaviours_before_it_and_nobody_sees_an_offer(store: Engine) -> None:
    rows = happened()
    ingest(store, rows, 100)
    with store.connect() as connection:
        log = with_offers(connection, read_log(connection))
    assert log.offer.sum() == sum(row.action == OFFERED for row in rows)
    impressions, past = impressions_of(log, np.arange(log.size))
    assert not log.offer[past.rows].any()
    for row in range(0, log.size, 7):
        seen = past.rows[impressions.first[row] : impressions.stop[row]]
        mine = (log.user == log.user[row]) & ~log.offer & (log.seq < log.seq[row])
        assert seen.tolist() == np.flatnonzero(mine).tolist()
        assert (log.at[seen] <= log.at[row]).all()
    assert log.position().tolist() == (impressions.stop - impressions.first).tolist()


def test_a_later_offer_changes_no_earlier_sample_and_counts_for_its_item_afterwards() -> None:
    log = _log()
    spec = spec_of(log)
    more = dataclasses.replace(log, item=log.item.copy())
    place = int(np.flatnonzero(log.offer)[20])
    more.item[place] = (more.item[place] + 1) % 40
    before, after = (samples_of(spec, one, np.arange(log.size)) for one in (log, more))
    changed = np.flatnonzero((before.dense != after.dense).any(axis=1))
    assert ((log.at[changed] > log.at[place]) | (changed == place)).all()
    assert len(changed) > 1  # statistics of its items


def test_they_are_samples_of_the_dataset_and_not_of_pre_training(store: Engine) -> None:
    ingest(store, happened(each=120), 500)
    config = DatasetConfig(tasks=(CLICKS,), history=10, min_history=2)
    with store.connect() as connection:
        data, read = read_dataset(connection, config), read_labelled(connection, config, least=2)
    taken = data.labels[data.part == TRAIN]
    assert 0.2 < taken.mean() < 0.5
    assert (data.labels == ~data.log.offer[data.rows]).all()
    assert data.spec.offers_scenes
    assert not len(read.log.offer)
    cut = data.log.at[data.rows[data.part != TRAIN]].min()
    assert read.log.at[read.part == TRAIN].max() <= cut


def _log() -> Log:
    log = log_of(random_rows(1), 30, 40)
    offer = np.arange(log.size) % 3 == 1
    rank = np.concatenate([[0], np.cumsum(~offer)])
    return dataclasses.replace(log, offer=offer, seq=rank[:-1] - rank[log.starts[log.user]])


def test_a_log_without_offers_is_the_log_itself(store: Engine) -> None:
    ingest(store, [Behavior(user_id="u", item_id="i", action="click", at=DAY)], 10)
    with store.connect() as connection:
        log = read_log(connection)
        assert with_offers(connection, log) is log


def known_of_users() -> list[Behavior]:
    """As `happened`, but a seventh is what a log of offers knew of its users; all are offered something NOW."""
    rng, out = np.random.default_rng(3), []
    for row in happened(3, each=80):
        if rng.random() < 1 / 7:
            action = KNOWN_ACTIONS[rng.integers(3)]
            name = f"{action}:{rng.integers(6)}"
            out.append(Behavior(user_id=row.user_id, item_id=name, action=action, at=row.at))
        else:
            out.append(row)
    last = [Behavior(user_id=f"u{n}", item_id=f"i{n}", action=OFFERED, at=NOW, scene="home") for n in range(12)]
    return [*out, *last]


def told(store: Engine, tasks: str = "ctr=action=click") -> Dataset:
    """All that models can be told of such a log."""
    ingest(store, known_of_users(), 500)
    names = [Item(item_id=f"{action}:{n}", title=f"name {n}") for action in KNOWN_ACTIONS for n in range(6)]
    with store.begin() as connection:
        insert_new(connection, items, [item_row(item) for item in [*catalogue(30).values(), *names]])
    live.encode(store)
    config = DatasetConfig(
        tasks=parse_tasks([tasks]), history=10, min_history=2, keys=KeyChoice(("release_year",)),
        match=MatchSpec(
            parts=("text", "places", "known", "support"), encoder=live.TextEncoder.id, template=ITEM_TEMPLATE
        ),
    )  # fmt: skip
    with store.connect() as connection:
        return read_dataset(connection, config)


@pytest.mark.parametrize("tasks", ["ctr=action=click", "ctr=action=click|search", "home=scene=home"])
def test_an_offer_of_the_past_is_scored_by_what_it_was_a_sample_of(store: Engine, tasks: str) -> None:
    """Histories, counts, keys and match scalars: scoring reads behaviours only, and what was known is no dislike."""
    data = told(store, tasks)
    log, space = data.log, data.samples.match
    assert space is not None
    behaviour = {(log.user[row], log.at[row]) for row in log.behaved}
    chosen = [
        row for row in data.of(TEST)
        if log.offer[data.rows[row]] and (log.user[data.rows[row]], log.at[data.rows[row]]) not in behaviour
    ]  # fmt: skip
    assert len(chosen) > 30
    past = PastStatistics(log, data.spec)
    with store.connect() as connection:
        for row in chosen[::3]:
            own = data.rows[row]
            pair, at = (log.users[log.user[own]], log.items[log.item[own]]), float(log.at[own])
            scene = log.scenes[log.scene[own]]
            spec, statistics = past.at(at, [pair[1]])
            made = current_samples(connection, spec, statistics, [pair], at, space=space.space, scenes=[scene])
            learnt, asked = data.samples.batch(np.array([row])), made.batch(np.array([0]))
            for one, other in zip(meaning(learnt), meaning(asked), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)
            assert learnt.keys is not None
            assert asked.keys is not None
            for field in dataclasses.fields(learnt.keys):
                one, other = (getattr(keys, field.name).numpy() for keys in (learnt.keys, asked.keys))
                np.testing.assert_allclose(one, other, atol=1e-5)
    known = data.samples.dense[:, [data.spec.dense.index(name) for name in ("known_most", "known_mean")]]
    assert (known.std(axis=0) > 0.1).all()


@pytest.mark.parametrize(
    "config",
    [
        DinConfig(width=8, attention=8, hidden=(16,), dropout=0.0, dense_path=True, keys=True),
        KvConfig(width=8, hidden=(16,), dropout=0.0, dense_path=True),
        msgspec.structs.replace(live.SRP4CTR, interest=False),
    ],
    ids=["din", "kv", "srp4ctr"],
)
def test_an_offer_of_now_is_scored_live_by_what_it_is_a_sample_of(store: Engine, config: ModelConfig) -> None:
    data = told(store)
    log, match = data.log, data.samples.match
    rows = np.flatnonzero(log.at[data.rows] == NOW)
    assert match is not None
    assert len(rows) == 12
    artifact = live.artifact_of(log, data.spec, config, match.space)
    _, then = PastStatistics(log, data.spec).at(NOW, [])
    scorer = LiveScorer(dataclasses.replace(artifact, statistics=then), read_head)
    learnt, common = predict(artifact.model, data.samples, rows), CommonSpace(artifact)
    taste = data.spec.dense.index("place_taste")
    tastes = data.samples.dense[rows, taste] * data.spec.dense_std[taste] + data.spec.dense_mean[taste]
    with store.connect() as connection:
        for row, wanted, own in zip(data.rows[rows], learnt, tastes, strict=True):
            user, item = log.users[log.user[row]], log.items[log.item[row]]
            found = scorer.score(connection, user, [item], NOW, "home")
            np.testing.assert_allclose(found.values, [wanted], atol=1e-5)
            place = common.items(connection, [item], read_items(connection, [item]))[0]
            np.testing.assert_allclose(place @ common.user(connection, user), own, atol=1e-5)
    assert not scorer.counts().full_reads


def test_pre_training_reads_what_was_known_as_training_does(store: Engine) -> None:
    """Offers say what a positive is not: behaviours alone may all be positives."""
    ingest(store, known_of_users(), 500)
    with store.connect() as connection:
        read = read_labelled(connection, DatasetConfig(tasks=(CLICKS,), history=10, min_history=2), least=2)
    known = np.array([action in KNOWN_ACTIONS for action in read.log.actions])[read.log.action]
    assert (read.labels[known] == UNLABELLED).all()
    assert (read.labels[~known] == POSITIVE).all()
    assert read.spec.label.offers
    assert OFFERED not in read.spec.actions.texts


@pytest.mark.parametrize(("rule", "asked"), [("action!=offered", ()), ("action=click|pay", ("pay",))])
def test_what_was_known_is_a_label_only_where_it_is_named(store: Engine, rule: str, asked: tuple[str, ...]) -> None:
    ingest(store, known_of_users(), 500)
    with store.connect() as connection:
        config = DatasetConfig(tasks=(Task.parse(rule),), history=10, min_history=2)
        read = read_labelled(connection, config, least=2)
    named = np.array([read.log.actions[action] for action in read.log.action])
    assert (read.labels[named == "click"] == POSITIVE).all()
    for action in KNOWN_ACTIONS:
        assert (named == action).any()
        assert (read.labels[named == action] == (POSITIVE if action in asked else UNLABELLED)).all()


def test_a_log_without_offers_has_searches_and_visits_of_its_own(store: Engine) -> None:
    """A shop's, where a search is what it is: something that a user did instead of a click."""
    rows = [row for row in known_of_users() if row.action != OFFERED]
    ingest(store, rows, 500)
    with store.connect() as connection:
        data = read_dataset(connection, DatasetConfig(tasks=(CLICKS,), history=10, min_history=2))
    assert not data.spec.label.offers
    known = np.array([action in KNOWN_ACTIONS for action in data.log.actions])[data.log.action[data.rows]]
    assert known.any()
    assert (data.labels[known] == NEGATIVE).all()


def test_an_offer_is_no_action_of_histories(store: Engine) -> None:
    """No sequence of BAHE, which would be empty, and no column of keys, which would be 0."""
    data = told(store)
    assert data.spec.actions.texts == ("click", "pay", "search", "visit")
    assert data.spec.keys is not None
    assert data.spec.keys.actions == 4


def test_a_name_is_a_behaviour_once_however_it_comes_and_what_is_forgotten_between(
    store: Engine, tmp_path: Path
) -> None:
    """A memory of one byte, a restart with every batch, and all at once leave the same rows; a search is no name."""
    rows = [
        msgspec.structs.replace(row, event_id=row.item_id)
        if row.action in KNOWN_ACTIONS and not row.item_id.endswith("0")
        else row
        for row in known_of_users()
    ]
    ingest(store, rows, len(rows))
    for name, memory in (("small", 1), ("restarted", 0)):
        other = open_store(f"sqlite:///{tmp_path / name}.db")
        work, position = Ingest(other, Policy(count=5), memory=memory), Position()
        for start in range(0, len(rows), 40):
            part = rows[start : start + 40]
            position = work.commit(work.fold(part), "log:a", position, start + len(part), rejected=0)
            if not memory:
                work = Ingest(other, Policy(count=5))
        assert content(other) == content(store)
        other.dispose()
    with store.connect() as connection:
        held = [(row.user_id, row.item_id) for row in connection.execute(select(behaviors)) if row.event_id]
        searched = connection.scalar(select(func.count()).where(behaviors.c.item_id.endswith(":0")))
    names = {(row.user_id, row.item_id) for row in rows if row.event_id}
    assert sorted(held) == sorted(names)
    assert len(names) < sum(row.event_id is not None for row in rows)
    assert searched == sum(row.item_id.endswith(":0") for row in rows)
