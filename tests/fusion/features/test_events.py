"""Behaviour fields: what the FeatureSpec declares is what is gathered."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
from sqlalchemy import Engine

from fusion.features.collate import BatchIndices
from fusion.features.dataset import DatasetConfig, read_dataset
from fusion.features.events import GAP_ROWS, Events, behavior_rows
from fusion.features.impressions import PastIndex
from fusion.features.log import Log, read_log
from fusion.features.spec import FeatureSpec, fit_spec
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4Ctr, Srp4CtrConfig
from interest.store.tables import behaviors
from tests.support.ctr_world import DAY, RULE, TASKS, catalogue, fill, log_of, profiles, random_rows


def spec_of(log: Log, train: np.ndarray) -> FeatureSpec:
    book, people = catalogue(len(log.items)), profiles(len(log.users))
    return fit_spec(log, RULE.labels(log), train, book, people, tasks=TASKS, history=5, min_history=0)


def events_of(log: Log, spec: FeatureSpec) -> np.ndarray:
    past = PastIndex(np.arange(log.size), log.user.astype(np.int64))
    return Events(spec, log, RULE.labels(log), past).behavior(np.arange(log.size + 1))


def test_days_since_the_behaviour_before_and_none_for_a_users_first() -> None:
    log = log_of([(0, 1, 0.0, 5.0), (0, 2, 0.5 * DAY, 1.0), (0, 3, 9 * DAY, None), (1, 1, 9 * DAY, 4.0)], 2, 4)
    rows = events_of(log, spec_of(log, np.ones(4, bool)))
    assert list(behavior_rows(spec_of(log, np.ones(4, bool)))) == ["action", "value", "label", "since"]
    assert rows[:, 3].tolist() == [GAP_ROWS, 1, 5, GAP_ROWS, 0]  # buckets 0 days and 8-14 days; the last is padding
    assert rows[:, 2].tolist() == [3, 2, 1, 3, 0]


def test_scenes_are_a_field_where_the_log_tells_them_apart() -> None:
    log = log_of([(0, i, i * DAY, 3.0) for i in range(4)], 1, 4)
    assert spec_of(log, np.ones(4, bool)).scenes.texts == ()
    told = dataclasses.replace(log, scenes=["home", "search", "new"], scene=np.array([0, -1, 1, 2], np.int32))
    spec = spec_of(told, np.array([True, True, True, False]))
    assert spec.scenes.texts == ("home", "search")
    assert events_of(told, spec)[:, 4].tolist() == [2, 1, 3, 1, 0]  # none and unseen are unknown
    assert events_of(log, spec)[:, 4].tolist() == [1, 1, 1, 1, 0]
    assert msgspec.json.decode(msgspec.json.encode(spec), type=FeatureSpec) == spec


def test_scenes_of_the_store_reach_the_model(store: Engine) -> None:
    fill(store, random_rows(3))
    with store.begin() as connection:
        for number, scene in enumerate(("home", "search")):
            connection.execute(behaviors.update().where(behaviors.c.seq % 3 == number).values(scene=scene))
    with store.connect() as connection:
        log = read_log(connection)
        assert [None if n < 0 else log.scenes[n] for n in log.scene[:3]] == ["home", "search", None]
        asked = read_log(connection, ["u7", "u2"])
        assert asked.scene.tolist()[:3] == log.scene.tolist()[:3]
        data = read_dataset(connection, DatasetConfig(tasks=TASKS, history=10))
    config = Srp4CtrConfig(encoder=FgBertConfig(positions=10, width=16), pack=1)
    model = Srp4Ctr(data.spec, config).eval()
    batch = model.collator.collate(data.samples, BatchIndices(np.arange(5), np.ones(5, np.int64)))
    assert batch.users.behavior.shape[-1] == len(model.encoder.behavior) == 5
    assert np.isfinite(model(batch).detach().numpy()).all()


@pytest.mark.parametrize("missing", ["scenes"])
def test_a_spec_of_before_has_none(missing: str) -> None:
    log = log_of(random_rows(1), 30, 40)
    old = msgspec.to_builtins(spec_of(log, np.ones(log.size, bool)))
    del old[missing]
    assert msgspec.convert(old, FeatureSpec).scenes.texts == ()
