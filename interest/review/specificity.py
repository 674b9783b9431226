"""Specificity: whether a text tells its user from others, by a reader who knows only the text and counts.

The reader has a text about partition k of one user, titles masked, and the counted partitions k+1 of a hundred users,
and says whose the text is. For every category that the text names the hundred are compared: how much of it they chose,
and how they valued it against their own mean, each in standard deviations over the hundred. What a text calls liked
adds both, what it calls disliked takes off the second, what it only names adds the first. Words of the catalogue other
than categories (a director, a country) count as chosen or not. Where a text compares the user with others ("higher
ratings than most users", "older films than others") the partitions' mean values, or release years, are compared. The
user with the greatest sum is named; where several have it, the reader guesses among them. So a text gains by what holds
of this user and of few others. Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interest.check.category_claims import claims_in
from interest.check.evidence import Evidence
from interest.check.generality import knowing, unrecorded
from interest.check.sentences import sentences
from interest.facts.among_others import Measure
from interest.facts.counts import Facts, parts_of
from interest.review.measures import masked

CANDIDATES = 100
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Clue:
    """What a text says of one category or word: 1 liked, -1 disliked, 0 only named; of a measure: 1 more than others'
    partitions have, -1 less.
    """

    name: str
    stance: int
    word: bool = False  # a word of the catalogue that is not a category
    measure: Measure | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """A text about partition k, and its user's partition k+1."""

    user_id: str
    ordinal: int  # k: of its partition among the user's, where scenes are kept apart among the scene's
    clues: tuple[Clue, ...]
    after: Facts
    scene: str | None = None  # of both partitions, where scenes are kept apart


@dataclass(frozen=True, slots=True)
class Identified:
    """How often the reader was right, against chance; `hits` by user, for an interval over users."""

    trials: int
    accuracy: float
    chance: float
    hits: dict[str, list[float]]


# The statistics sentence says both in one clause, which the claim check would read as one stance.
_HIGHER_AND_LOWER = re.compile(r"(higher than the rest), and(?=[^.]* lower\.)")


def clues_of(text: str, evidence: Evidence) -> tuple[Clue, ...]:
    """What a text says of categories, words of the catalogue and whole partitions, titles masked; each once."""
    hidden = _HIGHER_AND_LOWER.sub(r"\1;", masked(text, evidence))
    found: dict[str, Clue] = {}
    said = [sentence for sentence, _ in sentences(hidden, evidence)]
    evidence = knowing(unrecorded(said, evidence), evidence)
    for sentence in said:
        for claim in claims_in(sentence, evidence):
            if claim.measure:
                name = f"\0{claim.measure.name}"  # no category's
                found[name] = Clue(name, claim.direction, measure=claim.measure)
            for name in claim.about:
                stance = claim.liking - claim.disliking
                if name not in found or stance:
                    found[name] = Clue(name, stance)
    low = hidden.lower()
    for name in {part for text in evidence.facts.names for part in parts_of(text)}:
        own = name.lower()
        # a pattern is made for the few names that occur at all: making one for each took four fifths of the time
        if len(name) > 2 and own in low and re.search(rf"(?<!\w){re.escape(own)}(?!\w)", low):
            found.setdefault(name, Clue(name, 0, word=True))
    return tuple(found[name] for name in sorted(found))


def identify(trials: Sequence[Trial], candidates: int = CANDIDATES) -> Identified | None:
    """Let the reader name the user of every text, among its group's users; None where nobody has company."""
    hits: dict[str, list[float]] = {}
    chances: list[float] = []
    for group in groups_of(trials, candidates):
        for trial, hit in zip(group, _named(group), strict=True):
            hits.setdefault(trial.user_id, []).append(hit)
            chances.append(1 / len(group))
    if not chances:
        return None
    every = [hit for own in hits.values() for hit in own]
    return Identified(len(every), float(np.mean(every)), float(np.mean(chances)), hits)


def groups_of(trials: Sequence[Trial], candidates: int) -> Iterator[list[Trial]]:
    """Those of users who are told apart: of one ordinal, two at least; where scenes are kept apart of one scene, for
    which scene a text is about tells nothing of whose it is.

    They are drawn into groups of `candidates` by a hash of their ids, and the last, smaller group is left out where
    there is a full one.
    """
    alike: dict[tuple[bool, str, int], list[Trial]] = {}
    for trial in trials:
        alike.setdefault((trial.scene is not None, trial.scene or "", trial.ordinal), []).append(trial)
    for kind in sorted(alike):
        own = sorted(alike[kind], key=lambda trial: _drawn(trial.user_id))
        groups = [own[start : start + candidates] for start in range(0, len(own), candidates)]
        yield from (group for group in groups if len(group) == candidates or (group is groups[0] and len(group) > 1))


def _named(group: Sequence[Trial]) -> list[float]:
    """For each text the chance that the reader names its user: 1 of those who share the greatest sum."""
    table: dict[tuple[str, bool, Measure | None, bool], Array] = {}

    def column(clue: Clue, valued: bool) -> Array:
        key = (clue.name, clue.word, clue.measure, valued)
        if key not in table:
            table[key] = _standardised([told_of(trial.after, clue, valued) for trial in group])
        return table[key]

    hits = []
    for at, trial in enumerate(group):
        score = np.zeros(len(group))
        for clue in trial.clues:
            if clue.measure:
                score += clue.stance * column(clue, False)
                continue
            if clue.stance >= 0:
                score += column(clue, False)
            if clue.stance and not clue.word:
                score += clue.stance * column(clue, True)
        best = np.flatnonzero(score >= score.max() - 1e-9)
        hits.append(1 / len(best) if at in best else 0.0)
    return hits


def told_of(facts: Facts, clue: Clue, valued: bool) -> float:
    """How much of a category or measure a partition has; or, `valued`, a category's mean against the user's, shrunk
    where it is of few. NaN where it has no such measure.
    """
    if clue.measure:
        own = clue.measure.of(facts)
        return float("nan") if own is None else own
    if clue.word:
        return float(any(clue.name in parts_of(text) for text in facts.names))
    if not valued:
        return facts.share(clue.name)
    category = facts.category(clue.name)
    if category is None or category.mean is None or facts.mean is None or not facts.spread:
        return 0.0
    return (category.mean - facts.mean) / facts.spread * category.valued / (category.valued + SHRINK)


SHRINK = 3.0  # values of a category that weigh as much as the assumption that it is valued as the rest


def _standardised(values: Sequence[float]) -> Array:
    column: Array = np.asarray(values, dtype=np.float64)
    known = column[~np.isnan(column)]
    column = np.where(np.isnan(column), known.mean() if len(known) else 0.0, column)  # it speaks for and against nobody
    spread: Any = column.std()
    return (column - column.mean()) / spread if spread > 1e-12 else np.zeros(len(column))


def _drawn(user_id: str) -> bytes:
    return hashlib.sha256(user_id.encode(errors="surrogatepass")).digest()
