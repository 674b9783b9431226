"""Scores candidates for users as of now, by the artifact's own FeatureSpec. Unknown ids are scored, not refused."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sqlalchemy import Connection

from fusion.bank.index import with_bank
from fusion.features.counts import ItemStatistics
from fusion.features.impressions import impressions_at
from fusion.features.interest_vectors import read_interest_vectors
from fusion.features.log import Array, read_log
from fusion.features.samples import Samples, make_samples
from fusion.features.spec import FeatureSpec
from fusion.models.bahe.model import Bahe
from fusion.models.srp4ctr.model import Srp4Ctr
from fusion.serving.bahe_cache import BaheStates, StoredTexts
from fusion.serving.srp4ctr_cache import UserStates
from fusion.training.artifact import Artifact
from fusion.training.train import predict
from interest.store.sql import read_items, read_users

Pair = tuple[str, str]  # user id, item id


class Scorer:
    """Scores requests through one artifact; where the model folds, a user's side is made once until the user acts."""

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        model = artifact.model
        self.states: UserStates | BaheStates | None = None
        self._texts: StoredTexts | None = None
        if isinstance(model, Srp4Ctr):
            self.states = UserStates(model)
        elif isinstance(model, Bahe):
            self.states = BaheStates(model)
            self._texts = StoredTexts(model.config.recipe, Path(artifact.config.model.folder), model.high.width)

    def __call__(self, connection: Connection, pairs: Sequence[Pair], at: float) -> Array:
        """Probability of a positive for every (user, item) at the event time `at`: (n,) float64, in the order given."""
        if not pairs:
            return np.empty(0)
        own = self._artifact
        samples = current_samples(connection, own.spec, own.statistics, pairs, at)
        if self._texts is not None:
            samples = with_bank(samples, own.config.model.recipe, partial(self._texts, connection))
        every = np.arange(len(pairs))
        if self.states is None:
            return predict(own.model, samples, every)
        names, out = list(dict.fromkeys(user for user, _ in pairs)), np.empty(len(pairs))
        for part in own.model.collator.score_batches(samples, every):
            out[part.rows] = torch.sigmoid(self.states.score(samples, part, names).double()).numpy()
        return out


def score(connection: Connection, artifact: Artifact, pairs: Sequence[Pair], at: float) -> Array:
    """One request: see `Scorer`."""
    return Scorer(artifact)(connection, pairs, at)


def current_samples(
    connection: Connection, spec: FeatureSpec, statistics: ItemStatistics, pairs: Sequence[Pair], at: float
) -> Samples:
    """The pairs as samples: the users' histories and partitions from the store up to `at`, item statistics as given."""
    users = list(dict.fromkeys(user for user, _ in pairs))
    log = read_log(connection, users)
    items = list(dict.fromkeys([*log.items, *(item for _, item in pairs)]))
    user_number = {user: i for i, user in enumerate(users)}
    item_number = {item: i for i, item in enumerate(items)}
    impressions, past = impressions_at(
        log,
        np.array([user_number[user] for user, _ in pairs], np.int32),
        np.array([item_number[item] for _, item in pairs], np.int32),
        at,
    )
    interest_vectors = None
    if spec.partitions:
        interest_vectors = read_interest_vectors(
            connection, users, generation=spec.generation, prompt_version=spec.prompt_version, encoder=spec.encoder
        )
    return make_samples(
        spec, log, impressions, past,
        items=items, catalogue=read_items(connection, items), profiles=read_users(connection, users),
        interest_vectors=interest_vectors, snapshot=statistics,
    )  # fmt: skip
