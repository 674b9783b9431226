"""How much a text says of its own user: a sentence that would pass the claim check for many others says little.

"A wide range of genres, including dramas" is true of nearly everybody. Pure; the caller decides what is sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from interest.check.category_claims import claims_in, holds_of
from interest.check.evidence import Claim, Evidence
from interest.check.sentences import sentences
from interest.facts.counts import Facts
from interest.facts.groups import below

OF_ANYONE = 1 / 3  # of the other users' partitions


@dataclass(frozen=True, slots=True)
class Subject:
    """A user and what is known of one of their partitions."""

    user_id: str
    evidence: Evidence


def count_general(texts: Iterable[tuple[str, Subject]], others: Sequence[Subject]) -> tuple[int, int]:
    """The sentences of `texts` (each with its own subject), and how many of them pass for a third of the `others`."""
    looked_at = general = 0
    for text, subject in texts:
        strangers = [other.evidence for other in others if other.user_id != subject.user_id]
        for sentence, whole in sentences(text, subject.evidence):
            if whole and strangers:
                looked_at += 1
                general += holds_for_many([sentence], strangers, subject.evidence)
    return looked_at, general


def holds_for_many(said: Sequence[str], others: Sequence[Evidence], own: Evidence | None = None) -> bool:
    """Whether every claim of some sentences is supported by a third of the partitions; stops as soon as that is known.

    Sentences without a claim hold for anybody. A count ("31 dramas") is exactly another's by chance alone, and says
    nothing of them: counts are left out. own: of the partition that they are about, where it may not know all their
    words (`unrecorded`).
    """
    if own is not None and (words := unrecorded(said, own)):
        others = [knowing(words, other) for other in others]
    wanted = max(1, -(-len(others) // round(1 / OF_ANYONE)))
    passed = 0
    for tried, evidence in enumerate(others):
        if passed + len(others) - tried < wanted:
            return False
        passed += all(holds_of(sentence, evidence, left_out=("count",)) for sentence in said)
        if passed >= wanted:
            return True
    return False


def unrecorded(said: Iterable[str], own: Evidence) -> tuple[str, ...]:
    """Words that nobody recorded, not even in the text's own partition: "recipes", where a reader of stored texts is
    not told what items are called. They tell no user from another.
    """
    claims = [claim for sentence in said for claim in claims_in(sentence, own)]
    return tuple(
        sorted({claim.text.lower() for claim in claims if claim.kind in ("detail", "name") and not claim.supported})
    )


def knowing(words: Sequence[str], evidence: Evidence) -> Evidence:
    """Evidence for which some words say what items are called."""
    return replace(evidence, nouns=(*evidence.nouns, *words)) if words else evidence


def contradictions(claims: Iterable[Claim], facts: Facts) -> tuple[str, ...]:
    """The categories called liked whose mean lies below the user's (`interest.facts.groups.below`)."""
    found: list[str] = []
    for claim in claims:
        meant = [category for name in claim.about if (category := facts.category(name))]
        if claim.liking and meant and all(below(category, facts) for category in meant):
            found += [category.name for category in meant]
    return tuple(dict.fromkeys(found))
