"""Retrieval of a user's next text by the vector of the last: whether vectors of texts tell users apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion.interests.text_vectors import Encoder

ENCODED = 64  # texts a call of the encoder: within seconds of an interruption
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Mean reciprocal rank over all texts with a next one, and what chance would give: the mean of H(n) / n."""

    texts: int
    mrr: float
    chance: float
    ranks: dict[str, list[float]]  # reciprocal, by user


def encode(
    encoder: Encoder, texts: Sequence[str], advance: Callable[[int], None] = lambda _count: None
) -> NDArray[np.float32]:
    """(N, d) of N >= 1 texts, equal ones encoded once. `advance` is called with the number of texts encoded."""
    distinct = list(dict.fromkeys(texts))
    vectors: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(distinct), ENCODED):
        some = distinct[start : start + ENCODED]
        vectors |= dict(zip(some, encoder(some), strict=True))
        advance(len(some))
    return np.stack([vectors[text] for text in texts])


def retrieve_next(
    users: Sequence[str],
    indices: Sequence[int],
    vectors: NDArray[np.float32],
    scenes: Sequence[str | None] | None = None,
) -> Retrieved | None:
    """Rank, for each text about partition k, the texts about partition k+1 of all users who have both.

    Args:
        users, indices: of the N texts: whose, and about which partition.
        vectors: (N, d), one a text. All are centred by their mean, so that what all texts share tells nothing, and
            brought to length 1; equal similarities share the mean of their ranks.
        scenes: of the N texts, where partitions are kept apart by scene; `indices` then count the scene's alone. A
            text's next is the same scene's, and is ranked among that scene's: which scene it is of tells nothing.

    Returns None where no index has two users with a next text.
    """
    kinds = scenes or [None] * len(users)
    place = {own: at for at, own in enumerate(zip(users, kinds, indices, strict=True))}
    centred: Array = vectors.astype(np.float64)
    centred -= centred.mean(axis=0, keepdims=True)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    ranks: dict[str, list[float]] = {}
    chances: list[float] = []
    users_at: dict[tuple[str | None, int], list[str]] = {}
    for user, scene, index in place:
        if (user, scene, index + 1) in place:
            users_at.setdefault((scene, index), []).append(user)
    for (scene, index), found in users_at.items():
        both = sorted(found)
        if len(both) < 2:
            continue
        last = centred[[place[user, scene, index] for user in both]]  # (n, d)
        following = centred[[place[user, scene, index + 1] for user in both]]  # (n, d)
        alike = last @ following.T  # (n, n)
        own = np.diag(alike)[:, None]
        above, level = (alike > own + 1e-9).sum(1), (np.abs(alike - own) <= 1e-9).sum(1)
        for user, better, equal in zip(both, above, level, strict=True):
            ranks.setdefault(user, []).append(float(1 / (better + (equal + 1) / 2)))
        chances += [float((1 / np.arange(1, len(both) + 1)).mean())] * len(both)
    if not chances:
        return None
    every = [rank for own_ranks in ranks.values() for rank in own_ranks]
    return Retrieved(len(every), float(np.mean(every)), float(np.mean(chances)), ranks)
