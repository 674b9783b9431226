"""Claims about categories and titles: finds them in a sentence and checks each against the partition's facts.

Decides which words of a sentence are claims (categories, titles, years, decades, numbers, names, the user's profile,
details nobody recorded) and holds each against `Facts`. It rather calls a true claim unsupported than the reverse: an
unsupported sentence costs another attempt, a false one misleads a reader. Pure; `interest.check.sentences` cuts.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from interest.check.evidence import Claim, Evidence, title_spans
from interest.check.lexicon import (
    COMPARATIVE,
    DECADE,
    DOWN,
    FAVOURITE,
    HIGHEST,
    LIKING,
    LOWER,
    MOSTLY,
    NEGATION,
    PAST,
    RARELY,
    SPLIT,
    STEADY,
    UP,
)
from interest.check.other_claims import (
    CATEGORY_MARK,
    TITLE_MARK,
    Named,
    name_claims,
    number_claims,
    profile_claims,
    year_claims,
)
from interest.check.with_others import first_of, levels_with_others, shares_with_others
from interest.facts.categories import mentions
from interest.facts.counts import Category, Facts, Title
from interest.facts.groups import is_highest
from interest.facts.support import likes, support_of


def claims_in(sentence: str, evidence: Evidence) -> list[Claim]:
    """The claims of one sentence, each with its verdict."""
    return list(_claims(sentence, evidence, behind=True))


def holds_of(sentence: str, evidence: Evidence, left_out: Container[str]) -> bool:
    """Whether every claim of a sentence is supported, those of some kinds left out; stops at the first that is not."""
    claims = _claims(sentence, evidence, behind=False)
    return all(claim.supported or claim.kind in left_out for claim in claims)


def _claims(sentence: str, evidence: Evidence, *, behind: bool) -> Iterator[Claim]:
    """behind: with the behaviours that support them, where these are categories."""
    masked, titles = _mask_titles(sentence, evidence)
    remaining = iter(titles)
    previous = ""
    for clause in _clauses(masked):
        # a negation said once holds for the list that follows it ("except thrillers, mysteries and crime")
        clause_titles = [next(remaining) for _ in range(clause.count(TITLE_MARK))]
        yield from _clause_claims(clause, clause_titles, evidence, first=not previous, lead=previous, behind=behind)
        previous = clause


def _mask_titles(sentence: str, evidence: Evidence) -> tuple[str, list[Title]]:
    """Put a mark for every title that is named, so that its words are not read as further claims."""
    hits = title_spans(sentence, evidence)
    parts, at = [], 0
    for start, end, _ in hits:
        parts += [sentence[at:start], TITLE_MARK]
        at = end
    return "".join([*parts, sentence[at:]]), [title for _, _, title in hits]


def _clauses(masked: str) -> Iterator[str]:
    start = 0
    for match in SPLIT.finditer(masked):
        yield masked[start : match.start()]
        start = match.start()
    yield masked[start:]


def _clause_claims(
    clause: str, titles: list[Title], evidence: Evidence, *, first: bool, lead: str, behind: bool
) -> Iterator[Claim]:
    facts = evidence.facts
    pattern, meaning = mentions(
        tuple(sorted({*evidence.categories, *(category.name for category in facts.categories)}))
    )
    named = [(match, meaning[match[0].lower()]) for match in pattern.finditer(clause)]
    stance = Stance.of(clause, lead)
    described, attached = _described(clause, titles, named)
    for match, names in named:
        move = _move_at(clause, match.start(), match.end()) if evidence.before else 0
        said = replace(stance, highest=False) if match.span() in attached else stance
        claim = _category_claim(match[0], names, said, move, evidence, behind=behind)
        if clause[: match.start()].lower().endswith("a few ") and max(map(facts.share, names)) > A_FEW:
            claim = replace(claim, supported=False, why="these are more than a few")
        # said of one title ("the comedy Glory", "Glory as a war film") it tells nothing of the user's taste in general
        yield replace(claim, about=()) if match.span() in attached else claim
    compared: list[tuple[Claim, tuple[int, int]]] = []
    if not evidence.before:  # in a shift "more X than Y" speaks of change
        yield from _comparison(clause, named, facts)
        before = [(match, meaning[match[0].lower()]) for match in pattern.finditer(lead)]
        compared = [] if named else levels_with_others(clause, evidence)
        yield from (claim for claim, _ in compared)
        if not compared:  # "dramas | more often than others do"
            yield from shares_with_others(clause, named or before, evidence)
    for title in titles:
        yield _title_claim(title, stance, evidence)
    yield from described
    yield from _combined(clause, named, evidence)
    for _, (start, end) in compared:
        clause = f"{clause[:start]}{' ' * (end - start)}{clause[end:]}"
    rest = pattern.sub(CATEGORY_MARK, clause)
    yield from year_claims(rest, titles, evidence)
    yield from number_claims(clause, named, evidence)
    yield from profile_claims(rest, facts)
    yield from name_claims(DECADE.sub(" ", rest), evidence, first=first)


LEAST = 0.06  # 3 of 50: what a user did less often is not part of what a text may call their taste
SHOWN = 3  # behaviours named for a claim
A_FEW = 0.2  # 10 of 50: more is no longer "a few"


@dataclass(frozen=True, slots=True)
class Stance:
    """How a clause speaks of what it names."""

    negative: bool
    rarely: bool
    liking: bool
    mostly: bool
    favourite: bool
    highest: bool  # valued best, which is said of few
    steady: bool
    past: bool  # speaks of the period before

    @property
    def likes(self) -> bool:
        """Whether it says that the user likes what it names."""
        return (self.liking or self.favourite) and not self.negative and not self.rarely

    @classmethod
    def of(cls, clause: str, lead: str) -> Stance:
        negative = bool(NEGATION.search(clause) or LOWER.search(clause))
        # a clause without a verb of its own ("..., or thrillers") inherits whether its lead spoke of liking
        liking = bool(
            LIKING.search(clause) or (not re.search(r"\b(?:they|who|which|user)\b", clause) and LIKING.search(lead))
        )
        return cls(
            negative=negative,
            rarely=bool(RARELY.search(clause)),
            liking=liking,
            mostly=bool(MOSTLY.search(clause)),
            favourite=bool(FAVOURITE.search(clause)),
            highest=bool(HIGHEST.search(clause)),
            steady=bool(STEADY.search(clause)),
            past=bool(PAST.search(clause)),
        )


_FROM_TO = re.compile(r"\bfrom\b(?P<left>.+?)\b(?:in)?to(?:wards?)?\b(?P<right>.+)", re.IGNORECASE)


def _move_at(clause: str, start: int, end: int) -> int:
    """Whether the clause says that what stands at start..end grew (1) or fell (-1); 0 if it says neither."""
    if match := _FROM_TO.search(clause):
        if match.start("left") <= start < match.end("left"):
            return -1
        if match.start("right") <= start:
            return 1
    clause = re.sub(r"\bmore (?=and more\b)", "", clause)
    before = [(word.start(), 1) for word in UP.finditer(clause, 0, start)]
    before += [(word.start(), -1) for word in DOWN.finditer(clause, 0, start)]
    if before:
        return max(before)[1]
    after = [(word.start(), 1) for word in UP.finditer(clause, end)]
    after += [(word.start(), 1) for word in COMPARATIVE.finditer(clause, end)]  # "dramas over thrillers": dramas grew
    after += [(word.start(), -1) for word in DOWN.finditer(clause, end)]
    return max(after, key=lambda word: (-word[0], word[1]))[1] if after else 0


def _category_claim(
    text: str, names: tuple[str, ...], stance: Stance, move: int, evidence: Evidence, *, behind: bool
) -> Claim:
    """Supported if it holds for any category the word may mean."""
    verdicts = [_category_verdict(name, stance, move, evidence) for name in names]
    best = next((verdict for verdict in verdicts if not verdict), verdicts[0])
    seqs = () if best or not behind else _behind(names, stance, evidence.facts)
    liking = stance.likes and move >= 0
    return Claim(
        "category", text, supported=not best, why=best, seqs=seqs, about=names, liking=liking, disliking=stance.negative
    )


def _behind(names: tuple[str, ...], stance: Stance, facts: Facts) -> tuple[int, ...]:
    """The behaviours that support what is said of a category, three at most."""
    titles = [title for title in facts.titles if set(title.categories) & set(names)]
    if stance.negative:
        titles.sort(key=lambda title: (title.value is None, title.value or 0.0, title.seq))
    else:
        titles = [title for title in titles if facts.supports(title) or not stance.likes]
        titles.sort(key=lambda title: (title.value is None, -(title.value or 0.0), title.seq))
    return tuple(title.seq for title in titles[:SHOWN])


def _category_verdict(name: str, stance: Stance, move: int, evidence: Evidence) -> str:
    """Empty if supported, else what the partition says."""
    facts = evidence.facts
    if evidence.before:
        if move or stance.steady:
            said = _move_verdict(name, move, facts, evidence.before)
            return said or (_liking_verdict(facts.category(name), facts) if stance.likes and move >= 0 else "")
        if stance.past:
            facts = evidence.before
    category = facts.category(name)
    if category is None:
        return f"no {name} in the partition"
    leading = {other.name for other in facts.categories if other.lift > 0}
    first_three = {other.name for other in facts.categories[:3]}
    if stance.negative or stance.rarely:
        seldom = category.count <= max(2, facts.size // 10)
        low = category.lift < 0 if stance.negative else seldom
        return (
            "" if low else f"{name} is {'not valued below' if stance.negative else 'not rare beside'} this user's usual"
        )
    against = (
        (stance.highest and not is_highest(category, facts), "lies below others that are valued as often"),
        (
            stance.favourite
            and name not in leading | {facts.categories[0].name}
            and not (stance.highest and facts.mean is not None),
            "is neither the commonest nor valued most",
        ),
        (stance.mostly and name not in leading | first_three, "is not among the leading categories"),
        (category.count < max(2, LEAST * facts.size), f"is only {category.count} of {facts.size}"),
        (stance.liking and category.lift < 0, "is valued below this user's usual"),
        (stance.liking and facts.spread > 0 and not category.liked, "has no title valued above this user's usual"),
    )
    said = next((f"{name} {why}" for holds, why in against if holds), "")
    return said or (_liking_verdict(category, facts) if stance.likes else "")


def _liking_verdict(category: Category | None, facts: Facts) -> str:
    """Empty where the partition supports that the user likes the category."""
    if category is None or likes(category, facts):
        return ""
    return f"of {category.name} only {support_of(category, facts)}"


def _move_verdict(name: str, move: int, now: Facts, before: Facts) -> str:
    moved = now.share(name) - before.share(name)
    said = f"{name} went from {before.share(name):.0%} to {now.share(name):.0%}"
    step = 1.5 / max(now.size, before.size, 1)  # at least two behaviours, or the change is noise
    if move > 0:
        return "" if moved >= step else said
    if move < 0:
        return "" if moved <= -step else said
    present = now.category(name) and before.category(name)
    return "" if present and abs(moved) <= 0.15 else said


def _comparison(clause: str, named: Named, facts: Facts) -> Iterator[Claim]:
    """ "more dramas than comedies", "prefers drama over comedy"."""
    for word in COMPARATIVE.finditer(clause):
        left = [names for match, names in named if match.end() <= word.start()]
        right = [names for match, names in named if match.start() >= word.end()]
        if not left or not right:
            continue
        first, second = first_of(left[-1], facts), first_of(right[0], facts)
        by_count = bool(re.search(r"\b(?:more|fewer|less)\b", clause[: word.start()], re.IGNORECASE))
        holds = first is not None and (second is None or _exceeds(first, second, by_count=by_count))
        if re.search(r"\b(?:fewer|less)\b", clause[: word.start()], re.IGNORECASE):
            holds = second is not None and (first is None or _exceeds(second, first, by_count=True))
        text = clause[named[0][0].start() : named[-1][0].end()]
        yield Claim("comparison", text, supported=holds, why="" if holds else "the counts say otherwise")


def _exceeds(first: Category, second: Category, *, by_count: bool) -> bool:
    if by_count or first.mean is None or second.mean is None:
        return first.count > second.count
    return first.mean > second.mean


def _title_claim(title: Title, stance: Stance, evidence: Evidence) -> Claim:
    why = ""
    if stance.negative and title.feeling >= 0:
        why = "this title was not valued low"
    elif not stance.negative and title.feeling < 0:
        why = "this title was valued low"
    elif stance.favourite and not stance.negative and evidence.facts.spread > 0 and title.feeling < 1:
        why = "this title is not a favourite"
    elif stance.likes and not evidence.facts.supports(title):
        why = "this title was not valued high"
    seqs = () if why else (title.seq,)
    return Claim("title", title.name, supported=not why, why=why, seqs=seqs, liking=stance.likes)


_AFTER_TITLE = re.compile(
    r"[\s,\"”’(-]*(?:(?:as|is|was|being|which|that|an?|the|one|of|their|favou?rites?)[\s,\"“]+)*[\s-]*$"
)


def _combined(clause: str, named: Named, evidence: Evidence) -> Iterator[Claim]:
    """ "romantic comedies", "comedy-drama": some title must be both."""
    for (first, left), (second, right) in pairwise(named):
        if clause[first.end() : second.start()] in (" ", "-"):
            seqs = [
                title.seq
                for title in evidence.titles()
                if set(title.categories) & set(left) and set(title.categories) & set(right)
            ]
            text = f"{first[0]} {second[0]}"
            yield Claim("category", text, supported=bool(seqs), why="" if seqs else "no title is both")


_BEFORE_TITLE = re.compile(
    r"[\s,:\"“‘']*(?:(?:films?|movies?|titles?|called|named|titled|such as|like|the|a)[\s,:\"“‘']+)*$"
)


def _described(clause: str, titles: list[Title], named: Named) -> tuple[list[Claim], set[tuple[int, int]]]:
    """ "the romantic comedy Glory", "Glory as a war film": the categories must be that title's. Also where those
    stand.
    """
    found: list[Claim] = []
    attached: set[tuple[int, int]] = set()
    marks = [at for at, letter in enumerate(clause) if letter == TITLE_MARK]
    for at, title in zip(marks, titles, strict=True):
        near = []
        end = at
        for match, names in reversed(named):
            if match.end() <= end and _BEFORE_TITLE.match(clause, match.end(), end):
                near.append((match, names))
                end = match.start()
        start = at + 1
        for match, names in named:
            if match.start() >= start and _AFTER_TITLE.match(clause, start, match.start()):
                near.append((match, names))
                start = match.end()
        for match, names in near:
            attached.add(match.span())
            holds = bool(set(names) & set(title.categories))
            why = "" if holds else f"{title.name} is {', '.join(title.categories) or 'of no known category'}"
            found.append(Claim("category", f"{match[0]} {title.name}", supported=holds, why=why))
        if re.search(r"\bgenres? (?:of |like |such as )?(?:the )?[\"“]?$", clause[:at]):
            found.append(Claim("category", f"genre {title.name}", supported=False, why="a title is not a genre"))
    return found, attached
