"""Controls for the interest text: other vectors in its place, while presence and age of every partition are kept.

A control says what a text is worth beyond being there: a user with many partitions is an old user, whatever they say.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fusion.features.interest_vectors import InterestVectors
from fusion.features.log import Array, Log

TRIES = 50  # of finding another user's vectors for every partition; a handful is enough where there are any


def shuffled(held: InterestVectors, log: Log, part: Array, seed: int = 0) -> InterestVectors:
    """Every partition gets the vectors of another user's partition whose last event is in the same part of the split.

    part: (N,) of the log's events. Partitions with a shift exchange with such, those without with such. Where the other
    users have none of that kind, a partition keeps its own.
    """
    rng = np.random.default_rng(seed)
    owner, has_shift = _owner(held), _has_shift(held)
    kind = 2 * part[log.starts[owner] + held.last_seq] + has_shift
    source = np.arange(len(owner))
    for own in np.unique(kind):
        places = np.flatnonzero(kind == own)
        source[places] = _of_others(places, owner, rng)
    return dataclasses.replace(held, vectors=held.vectors[source])


def _of_others(places: Array, owner: Array, rng: np.random.Generator) -> Array:
    """(n,): a permutation of the places in which, where it can be, none is one of the same owner."""
    order = rng.permutation(places)
    for _ in range(TRIES):
        wrong = np.flatnonzero(owner[order] == owner[places])
        if not len(wrong):
            break
        for place in wrong:
            other = int(rng.integers(len(places)))
            if owner[order[other]] != owner[places[place]] and owner[order[place]] != owner[places[other]]:
                order[place], order[other] = order[other], order[place]
    return order


def random(held: InterestVectors, seed: int = 0) -> InterestVectors:
    """Normal noise with the mean and the deviation that every dimension of the vectors has; no shift stays none."""
    rng = np.random.default_rng(seed)
    values, half = held.vectors.astype(np.float32), held.width // 2
    noise = rng.normal(size=values.shape).astype(np.float32) * values.std(0) + values.mean(0)
    shifts, has_shift = values[:, half:], _has_shift(held)
    if has_shift.any():
        own = shifts[has_shift]
        noise[has_shift, half:] = rng.normal(size=own.shape).astype(np.float32) * own.std(0) + own.mean(0)
    noise[~has_shift, half:] = 0.0
    return dataclasses.replace(held, vectors=noise.astype(np.float16))


def of_texts(held: InterestVectors, summaries: Array, shifts: Array) -> InterestVectors:
    """Vectors (Q, d) of other texts about the same partitions; a partition without a shift has none here either."""
    both = np.hstack([summaries, shifts]).astype(np.float16)
    both[~_has_shift(held), summaries.shape[1] :] = 0
    return dataclasses.replace(held, vectors=both)


def _owner(held: InterestVectors) -> Array:
    return np.repeat(np.arange(len(held.starts) - 1), np.diff(held.starts))


def _has_shift(held: InterestVectors) -> Array:
    """(Q,) bool."""
    return np.asarray(held.vectors[:, held.width // 2 :].any(axis=1))
