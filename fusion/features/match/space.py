"""The common space: items by what the same users thought of them, and texts mapped to where such items are.

Fitted before any model, on training events alone. Feedback, centred for users and items, is a sparse matrix whose first
K right singular vectors place the items (pure SVD: Cremonesi et al., RecSys 2010, section 3.2). A place is damped by
how few events it rests on, and a ridge regression from text vectors fills what is missing: the sparser the item, the
more its text decides, so one that nobody has met has a place too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from fusion.features.log import Array

DIMENSIONS = 30  # K
USER_SHRINK, ITEM_SHRINK, PLACE_SHRINK = 5.0, 10.0, 10.0  # as many imagined events at the average
RIDGE = 30.0  # as many imagined items per direction of the text
MOST = 50.0  # events above which an item weighs no more in the regression
LIMIT = 3.0  # deviations: one value far outside the others moves no place
LEAST = 3  # users, and items, below which there is nothing to decompose
ROUNDS = 3  # of centring: users by items' means, items by users'


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """I items and a map of texts that are d wide (0: no texts). All float32."""

    scale: Array  # (2,): mean and deviation of the feedback
    bias: Array  # (I,): how far above its users' usual an item is, shrunk, in deviations
    place: Array  # (I, K): damped, length below 1
    support: Array  # (I,): the share of its place that an item has from events, 0 to 1
    text_mean: Array  # (d,): of the items' text vectors
    text_map: Array  # (d + 1, K + 1): centred text vector and 1 -> place and bias
    interest_map: Array  # (w + 1, K): a partition's text vectors and 1 -> what its user liked then; w 0: none

    def standard(self, feedback: Array) -> Array:
        """Feedback in deviations, within LIMIT; NaN stays."""
        return np.asarray(np.clip((feedback - self.scale[0]) / self.scale[1], -LIMIT, LIMIT))

    def centred(self, text: Array) -> Array:
        """(n, d) text vectors minus their mean, length 1; a row of zeros, which stands for no text, stays."""
        known = text.any(axis=1, keepdims=True)
        moved = np.where(known, text - self.text_mean, 0.0)
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        return np.asarray(moved / np.where(length > 0, length, 1.0), np.float32)

    def by_text(self, text: Array) -> tuple[Array, Array]:
        """Places (n, K) and biases (n,) by the text alone; zero where there is none."""
        known = text.any(axis=1, keepdims=True)
        told = np.hstack([self.centred(text), known]) @ self.text_map
        return told[:, :-1], told[:, -1]

    def support_of(self, number: Array) -> Array:
        """(n,) of items by their number, 0 for -1."""
        return np.where(number >= 0, self.support[number], 0.0) if len(self.support) else np.zeros(len(number))

    def items(self, number: Array, text: Array) -> tuple[Array, Array]:
        """Places (n, K) and biases (n,) of items by their number in the space, -1 for one that it does not have."""
        known = number >= 0
        missing = 1 - self.support_of(number)
        place, bias = self.by_text(text)
        place, bias = place * missing[:, None], bias * missing
        place[known] += self.place[number[known]]
        bias[known] += self.bias[number[known]]
        return place.astype(np.float32), bias.astype(np.float32)

    def interests(self, vectors: Array) -> Array:
        """(Q, K): where partitions' text vectors (Q, w) say that their user's liking lies."""
        return np.asarray(vectors @ self.interest_map[:-1] + self.interest_map[-1], np.float32)


def fit_space(user: Array, item: Array, feedback: Array, text: Array) -> Space:
    """Fit to E events of users on items, (E,) each; feedback NaN: an event that says nothing.

    text: (I, d), a row for every item, zeros where it has none.
    """
    said = ~np.isnan(feedback)
    user, item, feedback = user[said], item[said], feedback[said].astype(np.float64)
    deviation = float(feedback.std()) if len(feedback) else 0.0
    scale = np.array([feedback.mean() if len(feedback) else 0.0, deviation if deviation > 0 else 1.0])
    y = np.clip((feedback - scale[0]) / scale[1], -LIMIT, LIMIT)
    times = np.bincount(item, minlength=len(text)).astype(np.float64)
    by_user = np.bincount(user).astype(np.float64)
    bias, usual = np.zeros(len(text)), np.zeros(len(by_user))
    for _ in range(ROUNDS):
        usual = np.bincount(user, y - bias[item], len(by_user)) / (by_user + USER_SHRINK)
        bias = np.bincount(item, y - usual[user], len(text)) / (times + ITEM_SHRINK)
    place = _places(user, item, y - bias[item] - usual[user], len(text))
    support = times / (times + PLACE_SHRINK)
    has_text = text.any(axis=1)
    text_mean = text[has_text].mean(axis=0) if has_text.any() else np.zeros(text.shape[1])
    above = np.bincount(item, y - usual[user], len(text)) / np.maximum(times, 1)  # the bias, not shrunk
    space = Space(
        scale=scale.astype(np.float32),
        bias=bias.astype(np.float32),
        place=(place * support[:, None]).astype(np.float32),
        support=support.astype(np.float32),
        text_mean=text_mean.astype(np.float32),
        text_map=np.zeros((text.shape[1] + 1, DIMENSIONS + 1), np.float32),
        interest_map=np.zeros((1, DIMENSIONS), np.float32),
    )
    return _with(
        space,
        "text_map",
        ridge(space.centred(text), np.column_stack([place, above]), np.minimum(times, MOST) * has_text),
    )


def with_interests(space: Space, vectors: Array, profile: Array, weight: Array) -> Space:
    """The space with a map of partitions' text vectors (Q, w), fitted to what their users liked: profile (Q, K)."""
    return _with(space, "interest_map", ridge(vectors, profile, np.minimum(weight, MOST)))


def ridge(x: Array, y: Array, weight: Array) -> Array:
    """(d + 1, m) float32: weighted ridge regression from (n, d) to (n, m); the intercept, last, is not shrunk."""
    x = np.hstack([x.astype(np.float64), np.ones((len(x), 1))])
    weighted = x * weight[:, None]
    shrink = np.full(x.shape[1], RIDGE)
    shrink[-1] = 1e-3
    return np.linalg.solve(weighted.T @ x + np.diag(shrink), weighted.T @ y).astype(np.float32)


def _with(space: Space, name: str, value: Array) -> Space:
    return Space(**{field.name: value if field.name == name else getattr(space, field.name) for field in fields(space)})


def _places(user: Array, item: Array, rest: Array, items: int) -> Array:
    """(items, K) of length 1, or zeros where there is nothing to tell: right singular vectors times singular values."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import svds

    place = np.zeros((items, DIMENSIONS))
    users, user = np.unique(user, return_inverse=True)
    met, item = np.unique(item, return_inverse=True)
    if min(len(users), len(met)) < LEAST or not rest.any():
        return place
    matrix = coo_matrix((rest, (user, item)), (len(users), len(met))).tocsr()
    most = min(DIMENSIONS, min(matrix.shape) - 1)
    _, strength, right = svds(matrix, k=most, v0=np.ones(min(matrix.shape)))
    vectors = right.T * strength  # (met, most)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    place[met, :most] = vectors / np.where(length > 1e-9, length, 1.0)
    return place
