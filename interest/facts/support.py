"""How far a partition supports that its user likes a category, and how that is said: "9 of 14 rated 4 or 5". Pure."""

from __future__ import annotations

from interest.facts.counts import Category, Facts
from interest.facts.values import Kind, shown


def likes(category: Category, facts: Facts) -> bool:
    """Whether most of its values are at or above the user's usual, and not in the scale's lower half. Where nothing is
    valued, nothing speaks against it.
    """
    return facts.usual.mean is None or not category.valued or 2 * len(category.supporting) > category.valued


def support_of(category: Category, facts: Facts) -> str:
    """The count behind a liking; empty where the category has no values."""
    if not category.valued or facts.usual.mean is None:
        return ""
    values = sorted(set(category.supporting))
    return f"{len(category.supporting)} of {category.valued} {_threshold(values, facts)}"


def _threshold(values: list[float], facts: Facts) -> str:
    """ "rated 4 or 5", "played for 0:03:10 or longer": the values that count as support."""
    kind, usual = facts.kind, facts.usual
    least = shown(values[0] if values else max(usual.mean or 0.0, usual.middle if kind is Kind.RATING else 0.0), kind)
    if kind is Kind.RATING:
        if len(values) in (1, 2):
            return f"rated {' or '.join(shown(value, kind) for value in values)}"
        return f"rated {least} or higher"
    if kind in (Kind.SECONDS, Kind.MILLISECONDS):
        return f"{facts.verb} for {least} or longer"
    return f"{facts.verb} at {least} or more" if kind is Kind.PRICE else f"with {least} or more"
