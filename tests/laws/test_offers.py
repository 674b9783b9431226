"""Laws of offers that nobody took: samples and statistics of items, and nobody's past, partition or pre-training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from sqlalchemy import Engine, func, select

from fusion.features.dataset import DatasetConfig, read_dataset, read_labelled
from fusion.features.impressions import impressions_of
from fusion.features.log import Log, read_log
from fusion.features.offers import with_offers
from fusion.features.splits import TRAIN
from fusion.features.tasks import Task
from interest.store.tables import behaviors, offers, partitions
from interest.types import OFFERED, Behavior
from streams.store.engine import open_store
from streams.ubsp.ingest import Ingest, Position
from streams.ubsp.policy import Policy
from tests.support.ctr_world import DAY, log_of, random_rows, samples_of, spec_of

CLICKS = Task.parse("action=click")


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
