"""The behaviours behind each sentence of a stored text: what a reader may look at to believe it. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from interest.check.category_claims import claims_in
from interest.check.evidence import Claim, Evidence
from interest.check.sentences import sentences
from interest.facts.counts import Facts


@dataclass(frozen=True, slots=True)
class SupportedSentence:
    text: str
    seqs: tuple[int, ...]  # of the partition's behaviours, in order; none: the sentence says nothing that any shows


def sentence_support(text: str, evidence: Evidence, accepted: Collection[int] = ()) -> list[SupportedSentence]:
    """Each sentence with the partition's behaviours that its claims rest on.

    A title rests on its own behaviour; a category on all of the partition's behaviours in it, and where the sentence
    says that the user likes it, on those valued so. A claim names three of these; a reader is shown all.
    accepted: the behaviours that were named when the text was checked. A claim that today's check no longer supports
    (the catalogue has changed, or the check has become stricter) rests on those of them that it is about.
    """
    own = {title.seq for title in evidence.facts.titles}
    found = []
    for sentence, _ in sentences(text, evidence):
        seqs = {seq for claim in claims_in(sentence, evidence) for seq in _behind(claim, evidence.facts, accepted)}
        found.append(SupportedSentence(sentence, tuple(sorted(seqs & own))))
    return found


def _behind(claim: Claim, facts: Facts, accepted: Collection[int]) -> set[int]:
    about = {title for title in facts.titles if set(title.categories) & set(claim.about) or title.name == claim.text}
    if not claim.supported:
        return {title.seq for title in about} & set(accepted)
    return {title.seq for title in about if facts.supports(title) or not claim.liking} | set(claim.seqs)
