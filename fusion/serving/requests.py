"""Scoring requests: many (user, item) pairs a page at a time, or one user's items ranked.

Decides in which order pairs are scored and how many at once. Knows nothing of files, commands or HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from fusion.serving.by_task import rows_of
from fusion.serving.score import Pair, Scorer

PAGE = 2000  # pairs read from the store and scored together


class Scored(NamedTuple):
    """A pair and the probability of a positive; a user or an item that nothing is known of is scored, and marked."""

    user_id: str
    item_id: str
    score: float
    unknown_user: bool
    unknown_item: bool
    tasks: dict[str, float] | None = None  # of several tasks: each one's probability, or the number it expects


def score_pairs(
    scorer: Scorer,
    connection: Connection,
    pairs: Sequence[Pair],
    at: float,
    *,
    scenes: Sequence[str | None] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[list[Scored]]:
    """Score the pairs at the event time `at`; yields them in the order given, as soon as the ones before are scored.

    scenes: in which each item would be offered, where that is known.

    Each user's pairs are scored next to each other, so a user's side is computed once whatever order the pairs are in.
    """
    order = _user_by_user(pairs)
    waiting: dict[int, Scored] = {}  # by pair, until every pair before them is scored
    yielded = 0
    for start in range(0, len(order), PAGE):
        page = order[start : start + PAGE]
        own = None if scenes is None else [scenes[number] for number in page]
        found = _scored(scorer, connection, [pairs[number] for number in page], at, own)
        waiting |= zip(page, found, strict=True)
        ready = next((number for number in range(yielded, len(pairs)) if number not in waiting), len(pairs))
        yield [waiting.pop(number) for number in range(yielded, ready)]
        yielded = ready
        advance(len(page))


def rank_items(
    scorer: Scorer,
    connection: Connection,
    user_id: str,
    item_ids: Sequence[str],
    at: float,
    scene: str | None = None,
) -> list[Scored]:
    """One user's items at the event time `at`, in one scene, the best first; scored together, whatever their number."""
    pairs = [(user_id, item_id) for item_id in item_ids]
    found = _scored(scorer, connection, pairs, at, [scene] * len(pairs))
    return sorted(found, key=lambda one: -one.score)


def _scored(
    scorer: Scorer, connection: Connection, pairs: Sequence[Pair], at: float, scenes: Sequence[str | None] | None
) -> list[Scored]:
    found = scorer.scores(connection, pairs, at, scenes)
    told = rows_of(found.tasks, len(pairs))
    rows = zip(*(column.tolist() for column in found[:3]), told, strict=True)
    return [Scored(*pair, *row) for pair, row in zip(pairs, rows, strict=True)]


def _user_by_user(pairs: Sequence[Pair]) -> list[int]:
    """The pairs' numbers, each user's together, users by their first pair."""
    of_user: dict[str, list[int]] = {}
    for number, (user_id, _) in enumerate(pairs):
        of_user.setdefault(user_id, []).append(number)
    return [number for numbers in of_user.values() for number in numbers]
