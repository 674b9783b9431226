"""The review of one prompt version's texts by one model: measures of each text, put together, worst examples first.

Everything but outcomes and cost is measured on texts that the LLM wrote and that were kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import fmean, median

import msgspec

from interest.check.evidence import Evidence
from interest.facts.counts import Facts
from interest.review.measures import Measured, measure
from interest.review.specificity import Identified, Trial, clues_of, identify
from interest.review.texts import ASKED, ReviewedText
from interest.types import Outcome
from interest.write.cascade import plain_summary
from interest.write.prompts import Style

OTHERS = 60  # partitions of others, one a user, that a text is held against: a third is known to 6 points
EXAMPLES = 10
Begin = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A text that fell short, and why."""

    user_id: str
    index: int
    text: str
    faults: tuple[str, ...]


class Identification(msgspec.Struct, frozen=True, kw_only=True):
    """How often a reader of texts about partition k names the user among partitions k+1."""

    texts: int
    accuracy: float
    chance: float
    statistics: float  # the accuracy of statistics sentences about the same partitions


class Retrieval(msgspec.Struct, frozen=True, kw_only=True):
    """Mean reciprocal rank of the user's next text by vectors (fusion.interests.retrieval)."""

    texts: int
    mrr: float
    chance: float


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What the texts took, by the store's counters; forgotten and rewritten texts included."""

    calls: int
    tokens: int
    seconds: float
    summary_calls_per_1000: float | None  # of the behaviours of partitions that the LLM was asked about
    shift_calls_per_1000: float | None


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt version, model and language. Shares are from 0 to 1; None where nothing could be measured."""

    prompt_version: str
    model: str
    language: str
    texts: int  # summaries reviewed
    kept: int  # of these, written by the LLM and kept: what all measures are of
    outcomes: dict[str, int]
    shift_outcomes: dict[str, int]  # of the texts that have a shift; a user's first partition has none
    replaced: float | None  # of the summaries that an LLM was asked for: those with a statistics sentence instead
    distinct: float | None  # different texts, of the kept
    patterns: float | None  # kept texts in the three commonest patterns: titles, categories and numbers masked
    generic: float | None  # every claim holds for a third of other users' partitions
    coverage: float | None  # name the category valued best, of those where one is
    contradictions: float | None  # call liked what is valued below the user's mean
    with_title: float | None
    words: float | None  # median
    claims: int  # summaries' and shifts', before cutting
    supported: float | None
    specificity: Identification | None
    retrieval: Retrieval | None
    cost: Cost | None
    worst: tuple[Example, ...]


def review(
    texts: Sequence[ReviewedText],
    *,
    prompt_version: str,
    model: str,
    style: Style,
    cost: Cost | None = None,
    retrieval: Retrieval | None = None,
    others: Sequence[tuple[str, Evidence]] | None = None,
    begin: Begin = lambda _title, _count: nullcontext(lambda _done: None),
) -> Review:
    """Review the texts of one version and model: 10 to 100 ms each.

    others: partitions of OTHERS + 1 users to hold them against; None: of the users of `texts`.
    begin: called with the title of a step and how many texts it reads; gives what is told as they are read.
    """
    kept = [text for text in texts if text.kept]
    with begin(f"Reviewing {prompt_version}", len(kept)) as advance:
        measured = measure_all(kept, strangers(texts) if others is None else others, advance)
    outcomes = Counter(text.interest.summary_outcome for text in texts)
    asked = sum(outcomes[outcome] for outcome in ASKED)
    claims = sum(text.interest.claims for text in kept)
    return Review(
        prompt_version=prompt_version,
        model=model,
        language=LANGUAGE,
        texts=len(texts),
        kept=len(kept),
        outcomes=_counted(outcomes),
        shift_outcomes=_counted(Counter(text.interest.shift_outcome for text in texts if text.interest.shift)),
        replaced=share(asked - len(kept), asked),
        distinct=share(len({text.interest.summary for text in kept}), len(kept)),
        patterns=share(sum(n for _, n in Counter(each.pattern for each in measured).most_common(3)), len(kept)),
        generic=share_of([each.generic for each in measured]),
        coverage=share_of([each.covers for each in measured]),
        contradictions=share_of([bool(each.contradicts) for each in measured]),
        with_title=share_of(["TITLE" in each.pattern for each in measured]),
        words=median(each.words for each in measured) if measured else None,
        claims=claims,
        supported=share(sum(text.interest.supported for text in kept), claims),
        specificity=_identification(kept, style, begin),
        retrieval=retrieval,
        cost=cost,
        worst=tuple(worst(kept, measured)),
    )


def _counted(outcomes: Mapping[Outcome, int]) -> dict[str, int]:
    return {outcome.value: count for outcome, count in sorted(outcomes.items())}


LANGUAGE = "en"  # of every text: the check keeps no other


def strangers(texts: Sequence[ReviewedText]) -> list[tuple[str, Evidence]]:
    """One partition of each of OTHERS users, and one more: a text's own user is left out."""
    first: dict[str, Evidence] = {}
    for text in texts:
        first.setdefault(text.interest.user_id, text.evidence)
    return list(first.items())[: OTHERS + 1]


def company_of(user_id: str, others: Sequence[tuple[str, Evidence]]) -> list[Evidence]:
    """What a user's texts are held against: OTHERS partitions of others, whether or not the user is among these."""
    return [evidence for user, evidence in others if user != user_id][:OTHERS]


def measure_all(
    kept: Sequence[ReviewedText], others: Sequence[tuple[str, Evidence]], advance: Callable[[int], None]
) -> list[Measured]:
    """The measures of each text, against the partitions of other users."""
    found = []
    for text in kept:
        company = company_of(text.interest.user_id, others)
        found.append(measure(text.interest.summary, text.evidence, company))
        advance(1)
    return found


def trials_of(
    texts: Sequence[ReviewedText],
    say: Callable[[ReviewedText], str],
    advance: Callable[[int], None] = lambda _done: None,
) -> list[Trial]:
    """What `say` writes about each partition that another follows, as trials of the reader."""
    trials = []
    for text in texts:
        advance(1)
        if text.after is None:
            continue
        clues = clues_of(say(text), text.evidence)
        trials.append(Trial(text.interest.user_id, text.ordinal, clues, text.after, text.work.partition.scene))
    return trials


def _identification(kept: Sequence[ReviewedText], style: Style, begin: Begin) -> Identification | None:
    with begin("Looking for their users", 2 * len(kept)) as advance:
        own: Identified | None = identify(trials_of(kept, lambda text: text.interest.summary, advance))
        plain = identify(trials_of(kept, lambda text: plain_summary(text.evidence.facts, style).text, advance))
    if own is None or plain is None:
        return None
    return Identification(
        texts=own.trials,
        accuracy=round(own.accuracy, 4),
        chance=round(own.chance, 4),
        statistics=round(plain.accuracy, 4),
    )


def worst(kept: Sequence[ReviewedText], measured: Sequence[Measured], most: int = EXAMPLES) -> list[Example]:
    """The texts with the gravest faults: contradictions before generic ones, these before what leaves out the best; of
    the same faults the greatest first.
    """
    alike = Counter(text.interest.summary for text in kept)
    graded = sorted(
        (
            (_grade(own), _size(own, text.evidence.facts, alike[text.interest.summary]), text, own)
            for text, own in zip(kept, measured, strict=True)
            if _grade(own)
        ),
        key=lambda row: (-row[0], [-size for size in row[1]], row[2].interest.user_id, row[2].interest.index),
    )
    return [
        Example(
            user_id=text.interest.user_id,
            index=text.interest.index,
            text=text.interest.summary,
            faults=faults_of(own, text),
        )
        for _, _, text, own in graded[:most]
    ]


def _grade(own: Measured) -> int:
    return 4 * bool(own.contradicts) + 2 * bool(own.generic) + (own.covers is False)


def _size(own: Measured, facts: Facts, alike: int) -> tuple[float, float, float]:
    """How great each fault is: how far below the user's mean lies what is called liked, how many texts read the same,
    how far above the mean lies what is left out. Distances are in standard deviations of the partition.
    """
    return (
        max((-_lies_above(name, facts) for name in own.contradicts), default=0.0),
        float(alike) if own.generic else 0.0,
        _lies_above(own.best[0], facts) if own.covers is False else 0.0,
    )


def _lies_above(name: str, facts: Facts) -> float:
    category = facts.category(name)
    if category is None or category.mean is None or facts.usual.mean is None or not facts.spread:
        return 0.0
    return (category.mean - facts.usual.mean) / facts.spread


def faults_of(own: Measured, text: ReviewedText) -> tuple[str, ...]:
    """What is wrong with a text, in words."""
    facts = text.evidence.facts
    found = []
    for name in own.contradicts:
        category = facts.category(name)
        assert category is not None
        found.append(
            f"calls {name} liked, mean {category.mean:.1f} of {category.valued}; the user's is {facts.usual.mean:.1f}"
        )
    if own.generic:
        found.append("would do for a third of the others")
    if own.covers is False:
        means = ", ".join(
            f"{name} ({category.mean:.1f} of {category.valued})"
            for name in own.best
            if (category := facts.category(name))
        )
        found.append(f"leaves out what was valued best: {means}")
    return tuple(found)


def share(part: float, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def share_of(held: Sequence[bool | None]) -> float | None:
    """The share of what is true, of what is known."""
    known = [each for each in held if each is not None]
    return round(fmean(known), 4) if known else None
