"""Where a user stands among others: whether they value things higher than most, and choose older or newer items. Pure.

Held against the counted partitions of frozen base rates. A level of values is a habit: it comes back in the next
partition, and tells users apart where their categories do not.
"""

from __future__ import annotations

import enum
from functools import lru_cache
from statistics import fmean

from interest.facts.base_rates import LEAST, BaseRates
from interest.facts.counts import Facts
from interest.facts.values import Kind, Usual

LEAST_COUNTED = 5  # values, or release years, that a partition's mean is of
ABOVE_MOST = 0.6  # of the others: what a text may call more than most
FAR = 2 / 3  # of the others: what is told of a user


class Measure(enum.Enum):
    """What of a whole partition is compared with others."""

    VALUES = enum.auto()  # the mean of the values
    YEARS = enum.auto()  # the mean release year, by decades

    def of(self, facts: Facts) -> float | None:
        """The partition's own; none of too few behaviours, or where scenes are kept apart: base rates are of all."""
        if facts.scene is not None:
            return None
        if self is Measure.VALUES:
            return facts.mean if facts.valued >= LEAST_COUNTED else None
        return _mean_decade(facts.years)

    def of_others(self, facts: Facts, rates: BaseRates) -> list[float]:
        """Those of the others, of values of the same kind, ratings on the same scale."""
        if self is Measure.VALUES:
            alike = [one for one in rates.others if one.kind == facts.kind.name and one.valued >= LEAST_COUNTED]
            if facts.kind is Kind.RATING:
                alike = [one for one in alike if Usual(most=one.usual_most).middle == facts.usual.middle]
            return [one.mean for one in alike if one.mean is not None]
        return [mean for one in rates.others if (mean := _mean_decade(one.decades)) is not None]


def place(measure: Measure, facts: Facts, rates: BaseRates) -> float | None:
    """The share of the others that lie below the partition, 0 to 1, equal ones as halves; none where it has no measure,
    or fewer than LEAST others have.
    """
    own, others = measure.of(facts), measure.of_others(facts, rates)
    if own is None or len(others) < LEAST:
        return None
    return fmean((other < own) + (other == own) / 2 for other in others)


def far_from_most(measure: Measure, facts: Facts, rates: BaseRates) -> int:
    """1 where the partition lies far above others, -1 far below, 0 neither."""
    at = place(measure, facts, rates)
    if at is None:
        return 0
    return (at >= FAR) - (at <= 1 - FAR)


@lru_cache(maxsize=4096)
def _mean_decade(years: tuple[int, ...]) -> float | None:
    return fmean(year // 10 * 10 for year in years) if len(years) >= LEAST_COUNTED else None
