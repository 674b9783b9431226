"""Claims that compare the user with others, held against the frozen base rates: "more westerns than others", "higher
ratings than most users", "older films than others". Pure.

What is counted of a whole partition is the mean of its values and of its release years, so a comparison of these is
taken only in plain words: who did what, higher or older, than whom. Any other sentence with such a word and others in
it ("fewer older films than others", "never", "gave higher ratings to older films") is unsupported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from interest.check.evidence import Claim, Evidence
from interest.check.other_claims import Named
from interest.facts.among_others import ABOVE_MOST, Measure, place
from interest.facts.counts import Category, Facts
from interest.facts.values import Kind

_WHOM = r"(?:others|other (?:users?|people|viewers?)|users|people|viewers)\b"
_OTHERS = rf"(?:those of |what )?(?:most |the |any |all )*{_WHOM}"
_THAN_OTHERS = re.compile(rf"\b(?:than|often as) {_OTHERS}", re.IGNORECASE)
_THAN_USERS = re.compile(rf"\bthan (?!others){_OTHERS}", re.IGNORECASE)
_FEWER = re.compile(r"\b(?:fewer|less|rarely|seldom)\b", re.IGNORECASE)
_LEVEL = re.compile(
    r"\b(?:higher|lower|better|worse|(?P<uncounted>longer|shorter|older|newer|costs? (?:more|less)))\b", re.IGNORECASE
)
MORE_THAN_OTHERS = 1.15  # times the usual share; less than its inverse is fewer

_WHO = r"^\W*(?:and )?(?:they|he|she|(?:this|the) user)(?: also| generally)?"
_WHAT = "(?:films?|movies?|titles?|items?|songs?|books?|products?|NOUNS)"
_DID = "(?:rated?|watched|played|viewed|read|chose|picked|bought|saved|listened to|clicked on|VERB)"
_MOST = rf"than (?:those of |what )?(?:most )?(?:of the )?{_WHOM}\W*$"
_VALUES = {
    Kind.RATING: (
        rf"{_WHO} (?:gave|gives?) (?P<word>higher|lower) (?:ratings|scores|marks)(?: on average)? {_MOST}",
        rf"{_WHO} rated?(?: {_WHAT})? (?P<word>higher|lower)(?: on average)? {_MOST}",
        rf"^\W*(?:and )?their (?:ratings|scores) (?:were|are) (?:generally )?(?P<word>higher|lower) {_MOST}",
    ),
    Kind.SECONDS: (rf"{_WHO} {_DID}(?: {_WHAT})? for (?P<word>longer|shorter) {_MOST}",),
    Kind.PRICE: (rf"{_WHO} (?:chose|bought|picked) what costs? (?P<word>more|less) {_MOST}",),
    Kind.NUMBER: (rf"{_WHO} (?:gave|gives?) (?P<word>higher|lower) values(?: on average)? {_MOST}",),
}
_VALUES[Kind.MILLISECONDS] = _VALUES[Kind.SECONDS]
_AGE = r"(?P<word>older|newer|more recent)"
_YEARS = (
    rf"{_WHO} {_DID} {_AGE} {_WHAT} {_MOST}",
    rf"^\W*(?:and )?(?:the|their) {_WHAT} (?:were|are) (?:generally )?{_AGE} {_MOST}",
)
_ANY = re.compile(
    rf"\b(?:older|newer|more recent)\b|\b(?:higher|lower|longer|shorter|costs? (?:more|less))\b(?=.*\bthan {_OTHERS})",
    re.IGNORECASE,
)
_RELATIVE = re.compile(r",? *(?:which|who|where)\b", re.IGNORECASE)
_LESS = frozenset(("lower", "shorter", "less", "older"))


def shares_with_others(clause: str, named: Named, evidence: Evidence) -> Iterator[Claim]:
    """ "far more westerns than others": held against the base rates, where a text was told them.

    "Higher ratings to westerns than most users" is unsupported, for how others valued a category is not looked up, and
    so is "older westerns than others". "Higher ratings to westerns than others" speaks of other categories.
    """
    if evidence.rates is None or not (match := _THAN_OTHERS.search(clause)):
        return
    level = _LEVEL.search(clause[: match.start()])
    if level and not level["uncounted"] and not _THAN_USERS.search(clause):
        return
    fewer = bool(_FEWER.search(clause[: match.start()]))
    for hit, names in named:
        category = first_of(names, evidence.facts)
        lift = evidence.rates.lift(category, evidence.facts) if category else 0.0
        holds = not level and (lift <= 1 / MORE_THAN_OTHERS if fewer else lift >= MORE_THAN_OTHERS)
        why = "" if holds else "how others valued it is not counted" if level else f"{lift:.1f} times the usual share"
        yield Claim("comparison", hit[0], supported=holds, why=why)


def levels_with_others(clause: str, evidence: Evidence) -> list[tuple[Claim, tuple[int, int]]]:
    """The comparisons of the whole partition in a clause that names no category, each with where its words stand.

    A relative clause speaks of what stands before it ("dramas, | which they rated higher than others").
    """
    for measure, pattern in _patterns(evidence.facts.kind, evidence.facts.verb, evidence.nouns):
        if match := pattern.search(clause):
            direction = -1 if match["word"].lower() in _LESS else 1
            why = _verdict(measure, direction, evidence)
            said = match[0].strip(" ,.;!")
            claim = Claim("comparison", said, supported=not why, why=why, measure=measure, direction=direction)
            return [(claim, match.span())]
    if _RELATIVE.match(clause):
        return []
    why = "compared in a way that is not counted"
    return [(Claim("comparison", match[0], supported=False, why=why), match.span()) for match in _ANY.finditer(clause)]


@lru_cache(maxsize=64)
def _patterns(kind: Kind, verb: str, nouns: tuple[str, ...]) -> tuple[tuple[Measure, re.Pattern[str]], ...]:
    """How the whole partition is compared in plain words, for values of a kind and what its user did to what."""
    what = "|".join(map(re.escape, nouns or ("titles",)))
    return tuple(
        (measure, re.compile(pattern.replace("VERB", re.escape(verb)).replace("NOUNS", what), re.IGNORECASE))
        for measure, patterns in ((Measure.VALUES, _VALUES[kind]), (Measure.YEARS, _YEARS))
        for pattern in patterns
    )


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
