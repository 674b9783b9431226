"""The evidence for texts about a partition, the claims they make, and where they name its titles. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from interest.facts.among_others import Measure
from interest.facts.base_rates import BaseRates
from interest.facts.counts import Facts, Title


@dataclass(frozen=True, slots=True)
class Claim:
    kind: str  # category, title, year, decade, count (of a category), number, name, profile, detail, comparison
    text: str
    supported: bool
    why: str = ""  # of an unsupported claim: what the partition says instead
    seqs: tuple[int, ...] = ()  # the behaviours that support it, the best valued first; of a dislike the worst
    about: tuple[str, ...] = ()  # the catalogue's names of the categories it speaks of in general
    liking: bool = False  # it says that the user likes what it names
    disliking: bool = False  # it speaks of what it names as disliked, or valued below the rest
    measure: Measure | None = None  # of a comparison of the whole partition with others: what is compared
    direction: int = 0  # of that: 1 above most, -1 below


@dataclass(frozen=True, slots=True)
class Evidence:
    """What claims are checked against: the partition's facts, those of the one before it (for a shift), and the
    catalogue's categories.
    """

    facts: Facts
    before: Facts | None = None
    categories: tuple[str, ...] = ()  # all the catalogue has, so that naming an absent one is noticed
    rates: BaseRates | None = None  # what users choose as a rule, where a text may compare this user with others
    nouns: tuple[str, ...] = ()  # what the items are called: ("song", "songs")

    def titles(self) -> list[Title]:
        return [*self.facts.titles, *(self.before.titles if self.before else ())]


_ARTICLES = {"The", "A", "An"}


def title_spans(text: str, evidence: Evidence) -> list[tuple[int, int, Title]]:
    """Where the text names a title of the partition (of either, for a shift): start, end, title, in order."""
    hits: list[tuple[int, int, Title]] = []
    taken = [False] * len(text)
    named = {title.name: title for title in reversed(evidence.titles())}
    low = text.lower()
    for name, title in sorted(named.items(), key=lambda pair: (-len(pair[0]), pair[0])):
        if name.lower() not in low:
            continue
        # one or two words are also ordinary words ("Fearless"): only with their capitals; more words in any case
        flags = re.IGNORECASE if name.count(" ") > 1 else 0
        article, space, rest = name.partition(" ")
        words = f"(?i:{article}) {re.escape(rest)}" if space and article in _ARTICLES else re.escape(name)
        for match in re.finditer(rf"(?<!\w){words}(?!\w)", text, flags):
            if not any(taken[match.start() : match.end()]):
                taken[match.start() : match.end()] = [True] * len(match[0])
                hits.append((match.start(), match.end(), title))
    return sorted(hits, key=lambda hit: hit[0])
