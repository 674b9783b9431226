"""A small world for the match of users and items: texts say what kind items are of, and users like kinds."""

from __future__ import annotations

import numpy as np

from fusion.features.impressions import Impressions, PastIndex, impressions_of
from fusion.features.interest_vectors import InterestVectors
from fusion.features.log import Log
from fusion.features.match.features import Match, MatchSpec, fit_match, match_features, trained_numbers
from fusion.features.splits import TRAIN, split
from tests.support.ctr_world import RULE, interest_vectors_of, log_of, random_rows

TEXT = 16
WHOLE = MatchSpec(parts=("text", "places", "support", "interests", "known"), encoder="e", template="t")


def item_texts(items: int, seed: int = 0) -> np.ndarray:
    """(I, 16) of length 1: near for items of one kind (item % 4), which is what users of `random_rows` like or not.

    Every eleventh item has none.
    """
    rng = np.random.default_rng(seed)
    kind = rng.normal(size=(4, TEXT))[np.arange(items) % 4]
    text = kind + 0.2 * rng.normal(size=(items, TEXT))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    text[10::11] = 0.0
    return text.astype(np.float32)


class MatchWorld:
    """A log with its match: every event is an impression, and a training one where `split` says so."""

    def __init__(self, log: Log | None = None, *, train: np.ndarray | None = None, spec: MatchSpec = WHOLE) -> None:
        self.log = log_of(random_rows(3), 30, 40) if log is None else log
        self.train = split(self.log, "global") == TRAIN if train is None else train
        self.spec, self.text = spec, item_texts(len(self.log.items))

    @property
    def interests(self) -> InterestVectors:
        return interest_vectors_of(self.log)

    def fit(self) -> Match:
        return fit_match(self.spec, self.log, self.train, RULE, self.text, self.interests)

    def impressions(self, rows: np.ndarray) -> tuple[Impressions, PastIndex]:
        return impressions_of(self.log, rows)

    def features(self, match: Match, rows: np.ndarray | None = None) -> np.ndarray:
        """(n, F) of the events `rows`, all of them by default."""
        rows = np.arange(self.log.size) if rows is None else rows
        impressions, past = self.impressions(rows)
        return match_features(
            match, self.log, RULE, impressions, past,
            number=trained_numbers(self.log, self.train), text=self.text,
            interests=self.interests, partitions=3, training=self.train[rows],
        )  # fmt: skip

    def column(self, features: np.ndarray, name: str) -> np.ndarray:
        return features[:, self.spec.names.index(name)]
