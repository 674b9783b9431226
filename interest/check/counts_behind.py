"""The counts behind the likings of a text: "dramas: 9 of 14 rated 4 or 5". Pure."""

from __future__ import annotations

from interest.check.category_claims import claims_in
from interest.check.evidence import Evidence
from interest.check.sentences import sentences
from interest.facts.categories import plural
from interest.facts.support import support_of


def counts_behind(text: str, evidence: Evidence, noun: str = "titles") -> list[str]:
    """One line for each category that the text says the user likes, in the order in which it names them."""
    counts: dict[str, str] = {}
    for sentence, _ in sentences(text, evidence):
        for claim in claims_in(sentence, evidence):
            category = next(filter(None, map(evidence.facts.category, claim.about)), None)
            if category and claim.liking and claim.supported and (count := support_of(category, evidence.facts)):
                counts.setdefault(category.name, f"{plural(category.name, noun)}: {count}")
    return list(counts.values())
