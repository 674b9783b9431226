"""Scores items for users at an event time, through the artifact's own FeatureSpec.

Users and items that nothing is known of are scored too, by what the model learnt of such, and marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection

from fusion.bank.index import with_bank
from fusion.features.counts import ItemStatistics
from fusion.features.impressions import impressions_at
from fusion.features.interest_vectors import read_interest_vectors
from fusion.features.log import Array, read_log
from fusion.features.match.features import Match
from fusion.features.match.item_vectors import read_item_vectors
from fusion.features.match.space import Space
from fusion.features.modalities import read_modalities
from fusion.features.offers import with_offers
from fusion.features.samples import Samples, make_samples
from fusion.features.spec import FeatureSpec
from fusion.models.bahe.model import Bahe
from fusion.models.protocol import predictions
from fusion.models.srp4ctr.model import Srp4Ctr
from fusion.serving.bahe_cache import BaheStates, StoredTexts
from fusion.serving.by_task import blended, by_task, empty_scores, main_score, parse_blend, task_names
from fusion.serving.past_statistics import PastStatistics
from fusion.serving.srp4ctr_cache import UserStates
from fusion.training.artifact import Artifact
from fusion.training.train import predict
from interest.store.sql import read_items, read_users

Pair = tuple[str, str]  # user id, item id


class Scores(NamedTuple):
    """Of n pairs, in the order given."""

    values: Array  # (n,) float64: the probability of a positive; of several tasks the main task's, or their blend
    unknown_user: Array  # (n,) bool: neither behaviours up to then nor a profile are in the store
    unknown_item: Array  # (n,) bool: neither the artifact nor the catalogue has it (as of the past: nor had anybody)
    tasks: dict[str, Array] | None = None  # of several: each one's (n,) probabilities, or the numbers it expects


class Scorer:
    """Scores requests through one artifact; where the model folds, a user's side is computed once until the user acts.

    as_of_request: item statistics are of what had happened by each request's event time, by the store's whole log,
    which is read at the first request; the counterpart of training, for requests in the past. Otherwise they are the
    artifact's own, of the end of its training log: nothing is read for them, and they age.
    """

    def __init__(self, artifact: Artifact, *, as_of_request: bool = False, blend: str | None = None) -> None:
        """blend: how tasks become one score (fusion/serving/by_task.py). Raises InputError for another sum."""
        self._artifact, self._as_of_request = artifact, as_of_request
        self.tasks = task_names(artifact.spec.tasks)
        self._blend = None if blend is None else parse_blend(blend, self.tasks)
        self._past: PastStatistics | None = None
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
        return self.scores(connection, pairs, at).values

    def scores(
        self, connection: Connection, pairs: Sequence[Pair], at: float, scenes: Sequence[str | None] | None = None
    ) -> Scores:
        """The probabilities, and which users and items are unknown. scenes: in which each item would be offered."""
        if not pairs:
            return Scores(np.empty(0), np.empty(0, bool), np.empty(0, bool))
        spec, statistics = self._statistics(connection, pairs, at)
        samples = current_samples(connection, spec, statistics, pairs, at, space=self._artifact.space, scenes=scenes)
        if self._texts is not None:
            samples = with_bank(samples, self._artifact.config.model.recipe, partial(self._texts, connection))
        values = self._values(samples, pairs)
        each = by_task(spec.tasks, values)
        score = main_score(spec.tasks, values) if each is None or self._blend is None else blended(each, self._blend)
        return Scores(score, *_unknown(connection, samples, pairs), each)

    def _statistics(
        self, connection: Connection, pairs: Sequence[Pair], at: float
    ) -> tuple[FeatureSpec, ItemStatistics]:
        own = self._artifact
        if not self._as_of_request:
            return own.spec, own.statistics
        if self._past is None:
            self._past = PastStatistics(with_offers(connection, read_log(connection)), own.spec)
        return self._past.at(at, [item for _, item in pairs])

    def _values(self, samples: Samples, pairs: Sequence[Pair]) -> Array:
        """(n,) of one task, (n, T) of several."""
        model, every = self._artifact.model, np.arange(len(pairs))
        if self.states is None:
            return predict(model, samples, every)
        names, tasks = list(dict.fromkeys(user for user, _ in pairs)), samples.spec.tasks
        out = empty_scores(len(pairs), tasks)
        for part in model.collator.score_batches(samples, every):
            out[part.rows] = predictions(tasks, self.states.score(samples, part, names)).numpy()
        return out


def _unknown(connection: Connection, samples: Samples, pairs: Sequence[Pair]) -> tuple[Array, Array]:
    """(n,) bool each: users, and items, that nothing is known of."""
    own = samples.impressions
    no_past = own.stop <= own.first
    profiles = read_users(connection, {user for (user, _), none in zip(pairs, no_past, strict=True) if none})
    stranger = np.array([user not in profiles for user, _ in pairs])
    unlisted = samples.items.number[own.item + 1] < 0
    catalogue = samples.named.catalogue
    return no_past & stranger, unlisted & np.array([item not in catalogue for _, item in pairs])


def score(connection: Connection, artifact: Artifact, pairs: Sequence[Pair], at: float) -> Array:
    """One request: see `Scorer`."""
    return Scorer(artifact)(connection, pairs, at)


def current_samples(
    connection: Connection,
    spec: FeatureSpec,
    statistics: ItemStatistics,
    pairs: Sequence[Pair],
    at: float,
    *,
    space: Space | None = None,
    scenes: Sequence[str | None] | None = None,
) -> Samples:
    """The pairs as samples: the users' histories and partitions from the store up to `at`, item statistics as given.

    space: the artifact's, where its spec has match scalars; items read by what the catalogue says of them now.
    scenes: in which each pair's item would be offered; none: nobody says.
    """
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
    catalogue, match, item_text = read_items(connection, items), None, None
    if spec.match is not None and space is not None:
        match, item_text = Match(spec.match, space), read_item_vectors(connection, spec.match, items, catalogue)
    return make_samples(
        spec, log, impressions, past,
        items=items, catalogue=catalogue, profiles=read_users(connection, users),
        interest_vectors=interest_vectors, snapshot=statistics, match=match, item_text=item_text,
        scenes=scenes, modality_vectors=read_modalities(connection, spec.item_modalities, items, catalogue) or None,
    )  # fmt: skip
