"""Scoring reads what training reads at the same moment, and scores unknown ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sqlalchemy import Engine

from fusion.features.impressions import impressions_of
from fusion.features.interest_vectors import read_interest_vectors
from fusion.features.log import read_log
from fusion.features.samples import make_samples
from fusion.serving.score import current_samples, score
from fusion.training.artifact import load_artifact
from fusion.training.train import predict
from interest.store.sql import insert_new, read_items, read_users
from interest.store.tables import behaviors
from tests.support.ctr_world import DAY, log_of, meaning, random_rows


def test_scoring_reads_what_training_reads_at_the_same_moment(store: Engine, artifact: Path) -> None:
    loaded = load_artifact(artifact)
    spec = loaded.spec
    now = float(log_of(random_rows(6), 30, 40).at.max()) + 3 * DAY
    pairs = [("u0", "i5"), ("u3", "i39"), ("u7", "i6")]
    with store.connect() as connection:
        served = current_samples(connection, spec, loaded.statistics, pairs, now)
        scores = score(connection, loaded, pairs, now)
        alone = [score(connection, loaded, [pair], now)[0] for pair in pairs]
    np.testing.assert_allclose(scores, alone, atol=1e-6)
    with store.begin() as connection:  # what was offered then happens, and training reads the log again
        event = {"seq": 25, "action": "rate", "at": now, "value": 1.0}
        insert_new(connection, behaviors, [{"user_id": user, "item_id": item, **event} for user, item in pairs])
    with store.connect() as connection:
        log = read_log(connection)
        impressions, past = impressions_of(log, np.flatnonzero(log.at == now))
        interest_vectors = read_interest_vectors(connection, log.users, generation=0, prompt_version="p1", encoder="e1")
        trained = make_samples(
            spec, log, impressions, past,
            items=log.items, catalogue=read_items(connection), profiles=read_users(connection),
            interest_vectors=interest_vectors,
        )  # fmt: skip
    assert [log.users[user] for user in impressions.user] == [user for user, _ in pairs]
    everything = np.arange(len(pairs))
    for left, right in zip(meaning(served.batch(everything)), meaning(trained.batch(everything)), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
    np.testing.assert_allclose(scores, predict(loaded.model, trained, everything), atol=1e-6)


def test_unknown_ids_are_scored_and_no_pair_is_no_score(store: Engine, artifact: Path) -> None:
    loaded = load_artifact(artifact)
    with store.connect() as connection:
        strange = score(connection, loaded, [("nobody", "i1"), ("u1", "nothing"), ("nobody", "nothing")], 1e9)
        assert np.isfinite(strange).all()
        assert len(score(connection, loaded, [], 1e9)) == 0
