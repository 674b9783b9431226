"""Scores candidates for users as of now, through the artifact's own FeatureSpec. Strangers are scored, not refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection

from fusion.artifact import Artifact
from fusion.counts import ItemStatistics
from fusion.encode import Samples, encode
from fusion.knowledge import read_knowledge
from fusion.log import Array, read_log
from fusion.moments import now_moments
from fusion.spec import FeatureSpec
from fusion.train import predict
from interest.sql import read_items, read_users

Pair = tuple[str, str]  # user id, item id


def score(connection: Connection, artifact: Artifact, pairs: Sequence[Pair], at: float) -> Array:
    """Probability of a positive for every (user, item) at the event time `at`: (n,) float64, in the order given."""
    if not pairs:
        return np.empty(0)
    samples = current_samples(connection, artifact.spec, artifact.statistics, pairs, at)
    return predict(artifact.model, samples, np.arange(len(pairs)))


def current_samples(
    connection: Connection, spec: FeatureSpec, statistics: ItemStatistics, pairs: Sequence[Pair], at: float
) -> Samples:
    """The pairs as samples: the users' histories and partitions from the store up to `at`, item statistics as given."""
    users = list(dict.fromkeys(user for user, _ in pairs))
    log = read_log(connection, users)
    items = list(dict.fromkeys([*log.items, *(item for _, item in pairs)]))
    user_number = {user: i for i, user in enumerate(users)}
    item_number = {item: i for i, item in enumerate(items)}
    moments, past = now_moments(
        log,
        np.array([user_number[user] for user, _ in pairs], np.int32),
        np.array([item_number[item] for _, item in pairs], np.int32),
        at,
    )
    knowledge = None
    if spec.partitions:
        knowledge = read_knowledge(
            connection, users, generation=spec.generation, prompt_version=spec.prompt_version, encoder=spec.encoder
        )
    return encode(
        spec, log, moments, past,
        items=items, catalogue=read_items(connection, items), profiles=read_users(connection, users),
        knowledge=knowledge, snapshot=statistics,
    )  # fmt: skip
