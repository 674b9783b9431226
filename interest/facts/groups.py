"""Groups that a user valued best and worst: categories with enough values to say so, beside the user's own mean. Pure.

What a text should tell first, and what a review looks for in it.
"""

from __future__ import annotations

from interest.facts.counts import Category, Facts
from interest.facts.support import likes
from interest.facts.values import Kind

LEAST_VALUED = 3  # values of a category that its mean is judged by; of large partitions a tenth
OF_PARTITION = 0.1
POINTS = 0.1  # of a rating scale: a category so far below the user's mean is not one that they like
TOLD = 2  # categories that a prompt tells of a kind
OF_SPREAD = 0.1  # the same for values that are not ratings, in standard deviations of the partition


def best_valued(facts: Facts) -> list[Category]:
    """The categories valued above the user's usual, best first; equal means by count, then by name."""
    usual = facts.usual.mean
    if usual is None:
        return []
    above = [(category, mean) for category, mean in _judged(facts) if mean > usual]
    return [category for category, _ in sorted(above, key=lambda pair: (-pair[1], -pair[0].count, pair[0].name))]


def worst_valued(facts: Facts) -> list[Category]:
    """The categories valued below the user's usual by the margin of `below`, worst first."""
    under = [(category, mean) for category, mean in _judged(facts) if below(category, facts)]
    return [category for category, _ in sorted(under, key=lambda pair: (pair[1], -pair[0].count, pair[0].name))]


def likable(category: Category, facts: Facts) -> bool:
    """Whether the claim check lets a text call it liked, however few it is of."""
    return category.lift >= 0 and bool(category.liked or not facts.spread) and likes(category, facts)


def best_liked(facts: Facts) -> list[Category]:
    """The categories valued best, of those that a text may call liked; TOLD of them at most."""
    return [category for category in best_valued(facts) if likable(category, facts)][:TOLD]


def told_highest(facts: Facts) -> list[Category]:
    """The categories that prompts tell as given the highest ratings: the best liked that lie above the rest; where
    none is judged to be liked, such as lie above the rest with fewer values.
    """
    best = best_liked(facts)
    above = [each for each in facts.categories if each.lift > 0 and likable(each, facts)]
    return [each for each in best if each.lift > 0] if best else above[:TOLD]


def is_highest(category: Category, facts: Facts) -> bool:
    """Whether a text may say that it was given the highest ratings: what prompts tell so, and whatever no other that
    has as many values, or enough to be judged, lies clearly above.
    """
    if category.mean is None or any(each.name == category.name for each in told_highest(facts)):
        return True
    clearly = category.mean + _margin(facts)
    enough = min(category.valued, _least_judged(facts))
    return not any(
        each.mean is not None and each.valued >= enough and each.mean >= clearly and each.mean > category.mean
        for each in facts.categories
    )


def best_group(facts: Facts) -> tuple[str, ...]:
    """The names of the best-valued category, or of several with the same mean; none where none stands out."""
    best = best_valued(facts)
    return tuple(category.name for category in best if category.mean == best[0].mean)


def below(category: Category, facts: Facts) -> bool:
    """Whether its mean lies below the user's: by a tenth of a point for ratings, of a standard deviation elsewhere."""
    if category.mean is None or facts.usual.mean is None:
        return False
    return category.mean <= facts.usual.mean - _margin(facts) and category.mean < facts.usual.mean


def _least_judged(facts: Facts) -> int:
    return max(LEAST_VALUED, round(OF_PARTITION * facts.size))


def _margin(facts: Facts) -> float:
    return POINTS if facts.kind is Kind.RATING else OF_SPREAD * facts.spread


def _judged(facts: Facts) -> list[tuple[Category, float]]:
    least = _least_judged(facts)
    return [(each, each.mean) for each in facts.categories if each.mean is not None and each.valued >= least]
