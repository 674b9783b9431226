"""What a text asserts about a partition, and whether the partition supports it.

Decides which words of a sentence are claims (categories, titles, years, decades, numbers, names, the user's profile,
details nobody recorded) and holds each against `Facts`. It rather calls a true claim unsupported than the reverse: an
unsupported sentence costs another attempt, a false one misleads a reader. Pure; sentences are cut in `interest.check`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from interest.categories import mentions
from interest.facts import Category, Facts, Title
from interest.words import (
    COMPARATIVE,
    DECADE,
    DOWN,
    FAVOURITE,
    GENDER,
    LIKING,
    LOWER,
    MONTHS,
    MOSTLY,
    NEGATION,
    NUMBER,
    NUMBER_WORDS,
    PAST,
    RARELY,
    SPLIT,
    STEADY,
    UP,
    YEAR,
    plain,
)

TITLE_MARK = "\x01"  # stands for a title that was found, so that its words are not read as further claims
CATEGORY_MARK = "\x02"


@dataclass(frozen=True, slots=True)
class Claim:
    kind: str  # category, title, year, decade, number, name, profile, detail, comparison
    text: str
    supported: bool
    why: str = ""  # of an unsupported claim: what the partition says instead
    seqs: tuple[int, ...] = ()  # the behaviours that support it


@dataclass(frozen=True, slots=True)
class Ground:
    """What texts are held against: the partition, the one before it (for a shift), and the catalogue's categories."""

    facts: Facts
    before: Facts | None = None
    categories: tuple[str, ...] = ()  # all the catalogue has, so that naming an absent one is noticed

    def titles(self) -> list[Title]:
        return [*self.facts.titles, *(self.before.titles if self.before else ())]


def claims_in(sentence: str, ground: Ground) -> list[Claim]:
    """The claims of one sentence, each with its verdict."""
    masked, titles = _mask_titles(sentence, ground)
    found: list[Claim] = []
    remaining = iter(titles)
    previous = ""
    for clause in _clauses(masked):
        # a negation or comparison said once holds for the list that follows it ("except thrillers, mysteries and crime")
        own = [next(remaining) for _ in range(clause.count(TITLE_MARK))]
        found += _clause_claims(clause, own, ground, first=not previous, lead=previous)
        previous = clause
    return found


def title_spans(text: str, ground: Ground) -> list[tuple[int, int, Title]]:
    """Where the text names a title of the partition (of either, for a shift): start, end, title, in order."""
    hits: list[tuple[int, int, Title]] = []
    taken = [False] * len(text)
    named = {title.name: title for title in reversed(ground.titles())}
    low = text.lower()
    for name, title in sorted(named.items(), key=lambda pair: (-len(pair[0]), pair[0])):
        if name.lower() not in low:
            continue
        # one or two words are also ordinary words ("Fearless"): only with their capitals; more words in any case
        flags = re.IGNORECASE if name.count(" ") > 1 else 0
        for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text, flags):
            if not any(taken[match.start() : match.end()]):
                taken[match.start() : match.end()] = [True] * len(match[0])
                hits.append((match.start(), match.end(), title))
    return sorted(hits, key=lambda hit: hit[0])


def _mask_titles(sentence: str, ground: Ground) -> tuple[str, list[Title]]:
    """Put a mark for every title that is named, so that its words are not read as further claims."""
    hits = title_spans(sentence, ground)
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


def _clause_claims(clause: str, titles: list[Title], ground: Ground, *, first: bool, lead: str) -> Iterator[Claim]:
    facts = ground.facts
    pattern, meaning = mentions(tuple(sorted({*ground.categories, *(category.name for category in facts.categories)})))
    named = [(match, meaning[match[0].lower()]) for match in pattern.finditer(clause)]
    stance = Stance.of(clause, lead)
    for match, names in named:
        move = _move_at(clause, match.start(), match.end()) if ground.before else 0
        yield _category_claim(match[0], names, stance, move, ground)
    yield from _comparison(clause, named, facts)
    for title in titles:
        yield _title_claim(title, stance, ground)
    yield from _described(clause, titles, named)
    yield from _combined(clause, named, ground)
    rest = pattern.sub(CATEGORY_MARK, clause)
    yield from _years(rest, titles, ground)
    yield from _numbers(clause, rest, named, ground)
    yield from _profile(rest, facts)
    yield from _names(DECADE.sub(" ", rest), ground, first=first)


@dataclass(frozen=True, slots=True)
class Stance:
    """How a clause speaks of what it names."""

    negative: bool
    rarely: bool
    liking: bool
    mostly: bool
    favourite: bool
    steady: bool
    past: bool  # speaks of the period before

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
    after += [(word.start(), -1) for word in DOWN.finditer(clause, end)]
    return min(after)[1] if after else 0


def _category_claim(text: str, names: tuple[str, ...], stance: Stance, move: int, ground: Ground) -> Claim:
    """Supported if it holds for any category the word may mean."""
    verdicts = [_category_verdict(name, stance, move, ground) for name in names]
    best = next((verdict for verdict in verdicts if not verdict), verdicts[0])
    seqs = [
        title.seq
        for title in sorted(ground.facts.titles, key=lambda title: -(title.value or 0.0))
        if set(title.categories) & set(names)
    ]
    return Claim("category", text, supported=not best, why=best, seqs=() if best else tuple(seqs[:3]))


def _category_verdict(name: str, stance: Stance, move: int, ground: Ground) -> str:
    """Empty if supported, else what the partition says."""
    facts = ground.facts
    if ground.before:
        if move or stance.steady:
            return _move_verdict(name, move, facts, ground.before)
        if stance.past:
            facts = ground.before
    category = facts.category(name)
    if category is None:
        return f"no {name} in the partition"
    if stance.negative:
        return "" if category.lift < 0 else f"{name} is not valued below this user's usual"
    if stance.rarely:
        return "" if category.count <= max(2, facts.size // 10) else f"{category.count} of {facts.size} are {name}"
    if stance.favourite and category.lift <= 0 and category.name != facts.categories[0].name:
        return f"{name} is neither the commonest nor valued above this user's usual"
    if stance.mostly:
        leading = {other.name for other in facts.categories[:3]} | {c.name for c in facts.categories if c.lift > 0}
        if name not in leading:
            return f"{name} is not among the leading categories"
    if category.count < max(2, facts.size // 25):
        return f"only {category.count} of {facts.size} are {name}"
    if stance.liking and category.lift < 0:
        return f"{name} is valued below this user's usual"
    return ""


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


def _comparison(clause: str, named: list[tuple[re.Match[str], tuple[str, ...]]], facts: Facts) -> Iterator[Claim]:
    """ "more dramas than comedies", "prefers drama over comedy"."""
    for word in COMPARATIVE.finditer(clause):
        left = [names for match, names in named if match.end() <= word.start()]
        right = [names for match, names in named if match.start() >= word.end()]
        if not left or not right:
            continue
        first, second = _find(left[-1], facts), _find(right[0], facts)
        by_count = bool(re.search(r"\b(?:more|fewer|less)\b", clause[: word.start()], re.IGNORECASE))
        holds = first is not None and (second is None or _exceeds(first, second, by_count=by_count))
        if re.search(r"\b(?:fewer|less)\b", clause[: word.start()], re.IGNORECASE):
            holds = second is not None and (first is None or _exceeds(second, first, by_count=True))
        text = clause[named[0][0].start() : named[-1][0].end()]
        yield Claim("comparison", text, supported=holds, why="" if holds else "the counts say otherwise")


def _find(names: Iterable[str], facts: Facts) -> Category | None:
    return next((category for name in names if (category := facts.category(name))), None)


def _exceeds(first: Category, second: Category, *, by_count: bool) -> bool:
    if by_count or first.mean is None or second.mean is None:
        return first.count > second.count
    return first.mean > second.mean


def _title_claim(title: Title, stance: Stance, ground: Ground) -> Claim:
    why = ""
    if stance.negative and title.feeling >= 0:
        why = "this title was not valued low"
    elif not stance.negative and title.feeling < 0:
        why = "this title was valued low"
    elif (
        stance.liking
        and title.value is not None
        and ground.facts.spread > 0
        and title.feeling < 1
        and not stance.negative
    ):
        why = "this title was not valued high"
    return Claim("title", title.name, supported=not why, why=why, seqs=() if why else (title.seq,))


def _combined(clause: str, named: list[tuple[re.Match[str], tuple[str, ...]]], ground: Ground) -> Iterator[Claim]:
    """ "romantic comedies", "comedy-drama": some title must be both."""
    for (first, left), (second, right) in pairwise(named):
        if clause[first.end() : second.start()] in (" ", "-"):
            seqs = [
                title.seq
                for title in ground.titles()
                if set(title.categories) & set(left) and set(title.categories) & set(right)
            ]
            text = f"{first[0]} {second[0]}"
            yield Claim("category", text, supported=bool(seqs), why="" if seqs else "no title is both")


_BEFORE_TITLE = re.compile(
    r"[\s,:\"“‘']*(?:(?:films?|movies?|titles?|called|named|titled|such as|like|the|a)[\s,:\"“‘']+)*$"
)


def _described(clause: str, titles: list[Title], named: list[tuple[re.Match[str], tuple[str, ...]]]) -> Iterator[Claim]:
    """ "the romantic comedy Glory": a category put right before a title must be one of that title's."""
    marks = [at for at, letter in enumerate(clause) if letter == TITLE_MARK]
    for at, title in zip(marks, titles, strict=True):
        end = at
        for match, names in reversed(named):
            if match.end() <= end and _BEFORE_TITLE.match(clause, match.end(), end):
                end = match.start()
                holds = bool(set(names) & set(title.categories))
                why = "" if holds else f"{title.name} is {', '.join(title.categories) or 'of no known category'}"
                yield Claim("category", f"{match[0]} {title.name}", supported=holds, why=why)
        if re.search(r"\bgenres? (?:of |like |such as )?(?:the )?[\"“]?$", clause[:at]):
            yield Claim("category", f"genre {title.name}", supported=False, why="a title is no genre")


def _years(rest: str, titles: list[Title], ground: Ground) -> Iterator[Claim]:
    """A year must be a named title's, else a release year of the partition or a year of its period."""
    years = set(ground.facts.years)
    period = {int(text) for text in re.findall(r"\d{4}", ground.facts.period)}
    of_titles = {title.year for title in titles}
    for match in YEAR.finditer(rest):
        year = int(match[0])
        holds = year in of_titles if titles else year in years | period
        yield Claim("year", match[0], supported=holds, why="" if holds else "no such release year here")
    for match in DECADE.finditer(rest):
        start = _decade(match)
        inside = sum(start <= year < start + 10 for year in years)
        holds = sum(start <= year < start + 10 for year in ground.facts.years) >= 2 or (inside > 0 and bool(titles))
        yield Claim("decade", match[0], supported=holds, why="" if holds else f"{inside} titles of that decade")


_DECADE_WORDS = {"twenties": 20, "thirties": 30, "forties": 40, "fifties": 50, "sixties": 60, "seventies": 70, "eighties": 80, "nineties": 90}  # fmt: skip


def _decade(match: re.Match[str]) -> int:
    digits = match["digits"]
    if digits is None:
        return 1900 + _DECADE_WORDS[match["word"].lower()]
    if len(digits) == 4:
        return int(digits)
    return (1900 if int(digits) >= 30 else 2000) + int(digits)


def _numbers(
    clause: str, rest: str, named: list[tuple[re.Match[str], tuple[str, ...]]], ground: Ground
) -> Iterator[Claim]:
    facts = ground.facts
    without_years = DECADE.sub(" ", YEAR.sub(" ", clause))
    counts = {facts.size, *(category.count for category in facts.categories)}
    if ground.before:
        counts |= {ground.before.size, *(category.count for category in ground.before.categories)}
    for match in NUMBER.finditer(without_years):
        spelled = match["word"]
        number = float(NUMBER_WORDS[spelled.lower()]) if spelled else float(match["digits"].replace(",", ""))
        following = without_years[match.end() :].lstrip(" -(")
        about = [names for hit, names in named if following.lower().startswith(hit[0].lower())]
        if about:
            holds = any(
                number == c.count for name in about[0] for f in (facts, ground.before) if f and (c := f.category(name))
            )
        elif spelled:
            continue  # "two genres", "one of": no count of the partition
        elif following.startswith("%"):
            holds = any(abs(number - 100 * facts.share(c.name)) <= 1 for c in facts.categories)
        else:
            means = {round(facts.mean, places) for places in (0, 1, 2)} if facts.mean is not None else set()
            holds = number in counts | means | {float(text) for text in facts.profile.values() if text.isdecimal()}
        yield Claim("number", match[0], supported=holds, why="" if holds else "no such count here")


def _profile(rest: str, facts: Facts) -> Iterator[Claim]:
    texts = {text.lower() for text in facts.profile.values()}
    for match in GENDER.finditer(rest):
        said = {"f", "female", "woman"} if match["female"] else {"m", "male", "man"}
        holds = bool(texts & said)
        yield Claim("profile", match[0], supported=holds, why="" if holds else "the profile does not say so")


_WORD = re.compile(r"[^\W\d_][\w'’-]*")


def _names(rest: str, ground: Ground, *, first: bool) -> Iterator[Claim]:
    """Words from nowhere: neither plain vocabulary nor the catalogue's, the profile's or the period's."""
    texts = (*ground.facts.names, *ground.facts.profile.values())
    known = {word.lower() for text in texts for word in re.findall(r"\w+", text)}
    for match in _WORD.finditer(rest):
        word = match[0].rstrip("'’-")
        capital = word[0].isupper() and (not first or bool(rest[: match.start()].strip(" \"“'‘")))
        if word in MONTHS:
            holds = word in ground.facts.period
            yield Claim("name", word, supported=holds, why="" if holds else f"the period is {ground.facts.period}")
        elif word.lower() in known or GENDER.fullmatch(word):
            continue
        elif not plain(word):
            yield Claim("name" if capital else "detail", word, supported=False, why="nothing recorded says so")
