"""Pairs of items that the same users liked, as texts: what a sentence encoder is tuned on, and what it is measured on.

Only behaviours of the training part are read. A part of the users is held out by hash: of them nothing is learnt, and
their pairs say whether the encoder has learnt anything that holds for others. Knows nothing of tokens or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from fusion.adaptation.document import drawn
from fusion.adaptation.material import HELD_USERS, liked, rows_of
from fusion.features.log import Array, Log

CANDIDATES = 1_000  # texts that a held-out pair's partner is ranked among
LEVEL = 1e-6  # dot products of float32 that differ by less are equal
PAIRS_A_USER = 10  # held out: a heavy user would otherwise be most of the measure


@dataclass(frozen=True, slots=True)
class CoLiked:
    """U users who are learnt from, T distinct texts of items, H held-out pairs."""

    texts: list[str]  # (T,)
    users: list[str]  # (U,) ids
    likes: csr_matrix  # (U, T) bool: every row has two at least
    held: Array  # (H, 2) int64: texts that one held-out user liked
    hidden: csr_matrix  # (H, T) bool: all that this user liked, which is not a wrong answer
    among: Array  # (C,) int64: the texts that partners are ranked among


@dataclass(frozen=True, slots=True)
class Pairs:
    """One step's B pairs: each user's two texts, and which texts of different pairs are not wrong answers."""

    first: Array  # (B,) int64
    second: Array  # (B,)
    liked: Array  # (B, B) bool: user b liked the second text of c too, or user c the first of b; the diagonal is False


def co_liked(log: Log, training: Array, texts: Sequence[str], seed: int) -> CoLiked:
    """What the events `training` ((N,) bool) say of the log's items, which read as `texts` ((I,), empty: no text).

    Liked is a value at or above the user's own mean in these events, or an event without one. Items that read alike are
    one text. Nothing here depends on other events: not which texts there are, nor their order.
    """
    rows = rows_of(log, training)
    met = {texts[item] for item in np.unique(rows.item)}
    number = {text: row for row, text in enumerate(sorted(filter(None, met)))}
    text_of = np.array([number.get(text, -1) for text in texts], np.int64)
    shown = liked(rows) & (text_of[rows.item] >= 0)
    user, text = rows.user[shown], text_of[rows.item[shown]]
    everyone = csr_matrix((np.ones(len(user), bool), (user, text)), (len(log.users), len(number)))
    held = np.array([drawn(f"user {user_id}", seed, HELD_USERS) for user_id in log.users], bool)
    two = np.diff(everyone.indptr) > 1
    learnt, measured = np.flatnonzero(two & ~held), np.flatnonzero(two & held)
    pairs, owners = _held_pairs(everyone[measured], seed)
    among = np.unique(pairs)
    if len(among) < CANDIDATES:
        others = np.setdiff1d(np.arange(len(number)), among)
        more = np.random.default_rng([seed, 2]).permutation(others)[: CANDIDATES - len(among)]
        among = np.sort(np.concatenate([among, more]))
    return CoLiked(
        list(number), [log.users[row] for row in learnt], everyone[learnt], pairs, everyone[measured][owners], among
    )


def _held_pairs(likes: csr_matrix, seed: int) -> tuple[Array, Array]:
    """(H, 2) texts and (H,) rows of `likes`: some disjoint pairs of every user, as many as name CANDIDATES texts."""
    draw = np.random.default_rng([seed, 1])
    pairs, owners = [], []
    for row in draw.permutation(likes.shape[0]):
        own = draw.permutation(likes.indices[likes.indptr[row] : likes.indptr[row + 1]])
        some = own[: 2 * min(len(own) // 2, PAIRS_A_USER)].reshape(-1, 2)
        pairs.append(some)
        owners.append(np.full(len(some), row))
    if not pairs:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    return (
        np.concatenate(pairs).astype(np.int64)[: CANDIDATES // 2],
        np.concatenate(owners).astype(np.int64)[: CANDIDATES // 2],
    )


def draw_pairs(data: CoLiked, size: int, seed: int, step: int) -> Pairs:
    """The pairs of one step, by (seed, step) alone: a run that goes on draws what an uninterrupted one would.

    A user comes up in proportion to the square root of how many items were liked: two of a thousand say less of each
    other than two of ten.
    """
    draw = np.random.default_rng([seed, 3, step])
    starts, counts = data.likes.indptr[:-1], np.diff(data.likes.indptr)
    share = np.sqrt(counts)
    user = draw.choice(len(counts), size, p=share / share.sum())
    first = (draw.random(size) * counts[user]).astype(np.int64)
    second = (first + 1 + (draw.random(size) * (counts[user] - 1)).astype(np.int64)) % counts[user]
    one, other = (data.likes.indices[starts[user] + place].astype(np.int64) for place in (first, second))
    theirs = data.likes[user]
    both = theirs[:, other].toarray() | theirs[:, one].toarray().T
    np.fill_diagonal(both, val=False)
    return Pairs(one, other, both)


def reciprocal_rank(vectors: Array, data: CoLiked) -> float:
    """Mean reciprocal rank of a held-out pair's second text among `among`, by the dot product with its first.

    vectors: (C, d), of `among`, length 1. What else its user liked is left out of the ranking; texts that are as near
    share the mean of their ranks, so that an encoder to which all texts are one gains nothing. NaN without pairs.
    """
    if not len(data.held):
        return float("nan")
    place = np.searchsorted(data.among, data.held)  # (H, 2)
    scores = vectors[place[:, 0]] @ vectors.T  # (H, C)
    right = scores[np.arange(len(place)), place[:, 1], None]  # (H, 1)
    scores[data.hidden[:, data.among].toarray()] = -np.inf  # the partner too
    level = np.abs(scores - right) <= LEVEL
    above = (scores > right) & ~level
    return float(np.mean(1 / (1 + above.sum(axis=1) + level.sum(axis=1) / 2)))
