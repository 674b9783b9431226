"""Measures of one text about one partition: coverage, contradictions, how generic it is, and what it names. Pure.

`interestream review` and the benchmarks call the same functions. A claim is what `interest.check` takes for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from interest.check.category_claims import claims_in
from interest.check.evidence import Claim, Evidence, title_spans
from interest.check.generality import contradictions, holds_for_many
from interest.check.sentences import sentences
from interest.facts.base_rates import LEAST
from interest.facts.categories import mentions
from interest.facts.groups import best_group


@dataclass(frozen=True, slots=True)
class Measured:
    """What one text says, held against its own partition and against those of others."""

    generic: bool | None  # every claim holds for a third of the others' partitions; None: there are too few others
    covers: bool | None  # it names the best-valued category; None: none stands out
    best: tuple[str, ...]  # that category (several: equally valued)
    contradicts: tuple[str, ...]  # categories that it calls liked and that lie below the user's mean
    words: int
    pattern: str  # the text with its titles, categories and numbers masked


def measure(text: str, evidence: Evidence, others: Sequence[Evidence]) -> Measured:
    """Hold a text against its partition and against partitions of other users, one a user; of fewer than LEAST others
    a third tells nothing of a text.
    """
    said = [sentence for sentence, _ in sentences(text, evidence)]
    claims = claims_of(said, evidence)
    best = best_group(evidence.facts)
    return Measured(
        generic=holds_for_many(said, others, evidence) if len(others) >= LEAST else None,
        covers=covers(claims, best) if best else None,
        best=best,
        contradicts=contradictions(claims, evidence.facts),
        words=len(text.split()),
        pattern=pattern_of(text, evidence),
    )


def claims_of(said: Iterable[str], evidence: Evidence) -> list[Claim]:
    return [claim for sentence in said for claim in claims_in(sentence, evidence)]


def covers(claims: Iterable[Claim], best: Sequence[str]) -> bool:
    """Whether any of the best-valued categories is spoken of in general, and not as disliked."""
    named = {name.lower() for claim in claims if not claim.disliking for name in claim.about}
    return any(name.lower() in named for name in best)


def masked(text: str, evidence: Evidence) -> str:
    """The text with a mark in place of every title of its partition."""
    for start, end, _ in reversed(title_spans(text, evidence)):
        text = f"{text[:start]}TITLE{text[end:]}"
    return text


def pattern_of(text: str, evidence: Evidence) -> str:
    """The text as a pattern: titles, categories and numbers masked, lists of categories as one."""
    names = tuple(sorted({*evidence.categories, *(category.name for category in evidence.facts.categories)}))
    found, _ = mentions(names)
    bare = found.sub("GROUP", masked(text, evidence))
    bare = re.sub(
        r"GROUP(?: (?:films?|movies?|titles?))?(?:(?:, and |, | and | or )GROUP(?: (?:films?|movies?|titles?))?)+",
        "GROUPS",
        bare,
    )
    return re.sub(r"\d+(?:[.,]\d+)*", "N", bare)
