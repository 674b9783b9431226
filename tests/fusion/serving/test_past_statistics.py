"""Scores in the past: what was still to come changes nothing, and they are what training saw at that moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sqlalchemy import Engine, delete

from fusion.features.counts import NAMES
from fusion.features.impressions import impressions_of
from fusion.features.log import read_log
from fusion.features.samples import make_samples
from fusion.serving.past_statistics import PastStatistics
from fusion.serving.score import Scorer, current_samples
from fusion.training.artifact import load_artifact
from interest.store.sql import insert_new, read_items, read_users
from interest.store.tables import behaviors

ITEM_COUNTS = [NAMES.index(name) for name in NAMES if name.startswith("item_")]


def test_later_events_change_no_score(store: Engine, artifact: Path) -> None:
    """The law: everything after `at` is taken out of the store, or more is put in, and every score stays."""
    loaded = load_artifact(artifact)
    with store.connect() as connection:
        at = float(np.median(read_log(connection).at))
        pairs = [(f"u{user}", f"i{item}") for user in range(0, 30, 3) for item in (0, 3, 9, 17, 39)] + [("u1", "late")]
        whole = Scorer(loaded, as_of_request=True)(connection, pairs, at)
        frozen = Scorer(loaded)(connection, pairs, at)
    with store.begin() as connection:
        later = {"action": "rate", "value": 5.0}
        rows = [{"user_id": f"u{user}", "item_id": "i3", "seq": 900, "at": at + 1.0 + user} for user in range(30)]
        rows += [{"user_id": "u5", "item_id": "late", "seq": 901, "at": at + 100.0}]
        insert_new(connection, behaviors, [row | later for row in rows])
    with store.connect() as connection:
        more = Scorer(loaded, as_of_request=True)(connection, pairs, at)
    with store.begin() as connection:
        gone = connection.execute(delete(behaviors).where(behaviors.c.at > at)).rowcount
    with store.connect() as connection:
        less = Scorer(loaded, as_of_request=True)(connection, pairs, at)
    assert gone > 300
    np.testing.assert_allclose(more, whole, atol=1e-7)
    np.testing.assert_allclose(less, whole, atol=1e-7)
    assert np.abs(frozen - whole).max() > 1e-3  # the artifact's statistics know what came later


def test_a_past_request_reads_what_training_read_at_that_moment(store: Engine, artifact: Path) -> None:
    loaded = load_artifact(artifact)
    spec = loaded.spec
    with store.connect() as connection:
        log = read_log(connection)
        past = PastStatistics(log, spec)
        chosen = np.random.default_rng(3).permutation(log.size)[:12]
        impressions, runs = impressions_of(log, chosen)
        trained = make_samples(
            spec, log, impressions, runs,
            items=log.items, catalogue=read_items(connection), profiles=read_users(connection),
        )  # fmt: skip
        for number, row in enumerate(chosen):
            user, item, at = log.users[log.user[row]], log.items[log.item[row]], float(log.at[row])
            served = current_samples(connection, *past.at(at, [item]), [(user, item)], at)
            np.testing.assert_allclose(
                served.dense[0, ITEM_COUNTS], trained.dense[number, ITEM_COUNTS], atol=1e-6, err_msg=f"{user} {item}"
            )


def test_an_item_that_is_new_since_training_has_statistics_once_it_was_met(store: Engine, artifact: Path) -> None:
    spec = load_artifact(artifact).spec
    with store.begin() as connection:
        end = float(read_log(connection).at.max())
        new = {"user_id": "u5", "item_id": "new", "action": "rate", "value": 5.0}
        rows = [new | {"seq": 900 + hour, "at": end + 3600.0 * hour} for hour in (1, 2)]
        insert_new(connection, behaviors, rows)
    with store.connect() as connection:
        past = PastStatistics(read_log(connection), spec)
    for at, met in ((end, None), (end + 3600, None), (end + 3601, 1.0), (end + 9e9, 2.0)):
        grown, statistics = past.at(at, ["new", "never"])
        assert grown.items[: len(spec.items)] == spec.items
        assert grown.items[len(spec.items) :] == (() if met is None else ("new",))
        if met is not None:
            assert statistics.total[-1, :2].tolist() == [met, met]  # positives, labelled
            assert statistics.first_at[-1] == end + 3600
