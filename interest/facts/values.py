"""Kinds of values (ratings on a scale, durations, prices, plain numbers), and what a user usually gives.

A log says only a number and an action, so the kind is told by both: people rate within 100, play for seconds or
milliseconds, and pay in fractions. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from interest.facts.past_tense import past_tense

_PAID = frozenset(("bought", "purchased", "ordered", "paid", "checked out", "added to cart", "bid", "sold", "spent"))
_PLAYED = frozenset(("played", "watched", "listened", "listened to", "streamed", "viewed", "read", "heard", "saw"))
_SCALES = ((1.0, 0.5), (5.0, 3.0), (10.0, 5.5), (100.0, 50.0))  # top and middle of the scales that people rate on
_MILLISECONDS_FROM = 20_000.0  # the longest so far: five hours as seconds, 20 s as milliseconds


class Kind(enum.Enum):
    """What a value is."""

    RATING = enum.auto()
    SECONDS = enum.auto()
    MILLISECONDS = enum.auto()
    PRICE = enum.auto()
    NUMBER = enum.auto()


def kind_of(action: str, values: Iterable[float], most: float) -> Kind:
    """The kind of an action's values; `most` is the greatest that the user has given so far."""
    verb = past_tense(action)
    whole = all(value == value // 1 for value in values)
    if verb in _PAID:
        return Kind.PRICE
    if most <= (10.0 if verb in _PLAYED else 100.0):
        return Kind.NUMBER if verb in _PLAYED else Kind.RATING
    if not whole and verb not in _PLAYED - {"viewed", "saw", "read"}:
        return Kind.PRICE
    return Kind.MILLISECONDS if most >= _MILLISECONDS_FROM else Kind.SECONDS


def shown(value: float, kind: Kind) -> str:
    """A value as people read it: 4, 0:52:10, 1,024.50."""
    if kind is Kind.RATING:
        return f"{value:g}"
    if kind in (Kind.SECONDS, Kind.MILLISECONDS) and value >= 0:
        seconds = round(value / 1000 if kind is Kind.MILLISECONDS else value)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{value:,.0f}" if kind is not Kind.PRICE and value == value // 1 else f"{value:,.2f}"


@dataclass(frozen=True, slots=True)
class Usual:
    """A user's values as a rule: of all they did up to a partition's close, never later, so that replay equals live."""

    mean: float | None = None  # to six digits: sums of floats depend on their order
    most: float = 0.0

    @classmethod
    def of(cls, count: int, total: float, most: float) -> Usual:
        return cls(float(f"{total / count:.6g}"), most) if count else cls()

    def supports(self, value: float | None, kind: Kind) -> bool:
        """Whether a behaviour of this value shows liking: at or above the usual, and not in the scale's lower half."""
        if value is None or self.mean is None:
            return True
        return value >= self.mean and not (kind is Kind.RATING and value < self.middle)

    @property
    def middle(self) -> float:
        """The middle of the rating scale: the smallest usual one that holds the user's values."""
        return next((middle for top, middle in _SCALES if self.most <= top), 0.0)
