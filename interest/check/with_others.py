"""Claims that compare the user with others, held against the frozen base rates: "more westerns than others", "higher
ratings than most users", "older films than others". Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from interest.check.evidence import Claim, Evidence
from interest.check.other_claims import Named
from interest.facts.among_others import ABOVE_MOST, Measure, place
from interest.facts.counts import Category, Facts

_OTHERS = (
    r"(?:those of |what )?(?:most |the |any |all )*(?:others|other (?:users?|people|viewers?)|users|people|viewers)\b"
)
_THAN_OTHERS = re.compile(rf"\b(?:than|often as) {_OTHERS}", re.IGNORECASE)
_FEWER = re.compile(r"\b(?:fewer|less|rarely|seldom)\b", re.IGNORECASE)
MORE_THAN_OTHERS = 1.15  # times the usual share; less than its inverse is fewer

# "gave higher ratings than most users", "rated higher than others", "watched them for longer than other people"
_LEVEL = re.compile(
    r"\b(?P<word>higher|lower|longer|shorter|costs? more|costs? less)\b"
    rf"(?: (?:ratings?|values?|scores?|marks?|on average))* than {_OTHERS}",
    re.IGNORECASE,
)
_AGE = re.compile(
    rf"\b(?P<word>older|newer|more recent)\b(?P<than>(?: [\w'’-]+){{0,3}} than {_OTHERS})?", re.IGNORECASE
)
_RELATIVE = re.compile(r",? *(?:which|who|where)\b", re.IGNORECASE)
_LESS = frozenset(("lower", "shorter", "cost less", "costs less", "older"))


def shares_with_others(clause: str, named: Named, evidence: Evidence) -> Iterator[Claim]:
    """ "far more westerns than others": held against the base rates, where a text was told them."""
    if evidence.rates is None or not (match := _THAN_OTHERS.search(clause)):
        return
    fewer = bool(_FEWER.search(clause[: match.start()]))
    for hit, names in named:
        category = first_of(names, evidence.facts)
        lift = evidence.rates.lift(category, evidence.facts) if category else 0.0
        holds = lift <= 1 / MORE_THAN_OTHERS if fewer else lift >= MORE_THAN_OTHERS
        yield Claim("comparison", hit[0], supported=holds, why="" if holds else f"{lift:.1f} times the usual share")


def levels_with_others(clause: str, evidence: Evidence) -> Iterator[tuple[Claim, tuple[int, int]]]:
    """Comparisons of the whole partition in a clause that names no category, each with where its word stands.

    Unsupported without base rates, and of "older" or "newer" that is not than others: nothing else is counted of them.
    A relative clause speaks of what stands before it ("dramas, | which they rated higher than others").
    """
    if _RELATIVE.match(clause):
        return
    for measure, pattern in ((Measure.VALUES, _LEVEL), (Measure.YEARS, _AGE)):
        for match in pattern.finditer(clause):
            direction = -1 if match["word"].lower() in _LESS else 1
            with_others = measure is Measure.VALUES or match["than"] is not None
            why = _verdict(measure, direction, evidence) if with_others else "compared with what is not said"
            said = Claim("comparison", match[0], supported=not why, why=why, measure=measure, direction=direction)
            yield said, match.span("word")


def _verdict(measure: Measure, direction: int, evidence: Evidence) -> str:
    """Empty if supported, else what the partition says."""
    at = None if evidence.rates is None else place(measure, evidence.facts, evidence.rates)
    if at is None:
        return "no base rates to compare with"
    above = at if direction > 0 else 1 - at
    return "" if above >= ABOVE_MOST else f"{'above' if direction > 0 else 'below'} {above:.0%} of the others"


def first_of(names: Iterable[str], facts: Facts) -> Category | None:
    """The first of some categories that the partition has."""
    return next((category for name in names if (category := facts.category(name))), None)
