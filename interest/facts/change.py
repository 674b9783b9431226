"""Change beyond chance: which categories' shares differ between two partitions by more than chance explains. Pure.

Fisher's exact test, two-sided, of each category's count among the behaviours of either partition, with Holm's
correction over the categories (Scandinavian Journal of Statistics 6, 1979): where nothing has changed, one pair of
partitions in twenty is called changed at most. A behaviour may have several categories; Holm's correction holds
whatever their dependence. What two sittings of half an hour differ by is mostly such chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, fsum, lgamma

from interest.facts.counts import Facts

ALPHA = 0.05  # the chance of calling any category changed where none has


@dataclass(frozen=True, slots=True)
class Changed:
    """Categories whose share changed beyond chance, the surest first."""

    grew: tuple[str, ...]
    fell: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.grew or self.fell)


def changed(before: Facts, now: Facts, alpha: float = ALPHA) -> Changed:
    """The categories whose share of the behaviours grew and fell beyond chance."""
    names = sorted({category.name for facts in (before, now) for category in facts.categories})
    tested = sorted((fisher(_count(before, name), before.size, _count(now, name), now.size), name) for name in names)
    sure: list[str] = []
    for at, (p, name) in enumerate(tested):
        if p > alpha / (len(tested) - at):
            break
        sure.append(name)
    grew = tuple(name for name in sure if now.share(name) > before.share(name))
    return Changed(grew=grew, fell=tuple(name for name in sure if name not in grew))


def fisher(first: int, of_first: int, second: int, of_second: int) -> float:
    """The two-sided p of Fisher's exact test: `first` of `of_first` against `second` of `of_second`.

    The sum of the chances of all tables with the same margins that are no likelier than this one.
    """
    total, drawn = of_first + of_second, first + second
    least, most = max(0, drawn - of_second), min(drawn, of_first)
    logs = [_ways(of_first, k) + _ways(of_second, drawn - k) - _ways(total, drawn) for k in range(least, most + 1)]
    own = logs[first - least] + LEVEL
    return min(1.0, fsum(exp(log) for log in logs if log <= own))


LEVEL = 1e-7  # logarithms so close are of equal chances; rounding is far smaller


def _ways(of: int, chosen: int) -> float:
    """The logarithm of the binomial coefficient; numbers of thousands of digits would take seconds."""
    return lgamma(of + 1) - lgamma(chosen + 1) - lgamma(of - chosen + 1)


def _count(facts: Facts, name: str) -> int:
    category = facts.category(name)
    return category.count if category else 0
