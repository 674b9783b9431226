"""Claims about years, decades, numbers, the user's profile, and names and details that nobody recorded. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from interest.check.evidence import Claim, Evidence
from interest.check.lexicon import DECADE, GENDER, MONTHS, NUMBER, NUMBER_WORDS, YEAR, plain
from interest.facts.counts import Facts, Title

TITLE_MARK = "\x01"  # stands for a title that was found, so that its words are not read as further claims
CATEGORY_MARK = "\x02"
Named = list[tuple[re.Match[str], tuple[str, ...]]]  # the categories a clause names: where, and which it may mean


def year_claims(rest: str, titles: list[Title], evidence: Evidence) -> Iterator[Claim]:
    """A year must be a named title's, else a release year of the partition or a year of its period."""
    years = set(evidence.facts.years)
    period = {int(text) for text in re.findall(r"\d{4}", evidence.facts.period)}
    of_titles = {title.year for title in titles}
    for match in YEAR.finditer(rest):
        year = int(match[0])
        holds = year in of_titles if titles else year in years | period
        yield Claim("year", match[0], supported=holds, why="" if holds else "no such release year here")
    for match in DECADE.finditer(rest):
        start = _decade(match)
        inside = sum(start <= year < start + 10 for year in years)
        holds = sum(start <= year < start + 10 for year in evidence.facts.years) >= 2 or (inside > 0 and bool(titles))
        yield Claim("decade", match[0], supported=holds, why="" if holds else f"{inside} titles of that decade")


_DECADES = "twenties thirties forties fifties sixties seventies eighties nineties"
_DECADE_WORDS = {word: 20 + 10 * at for at, word in enumerate(_DECADES.split())}


def _decade(match: re.Match[str]) -> int:
    digits = match["digits"]
    if digits is None:
        return 1900 + _DECADE_WORDS[match["word"].lower()]
    if len(digits) == 4:
        return int(digits)
    return (1900 if int(digits) >= 30 else 2000) + int(digits)


def number_claims(clause: str, named: Named, evidence: Evidence) -> Iterator[Claim]:
    facts = evidence.facts
    both = [facts, evidence.before] if evidence.before else [facts]
    clean = DECADE.sub(lambda match: " " * len(match[0]), YEAR.sub("    ", clause))
    for match in NUMBER.finditer(clean):
        spelled = match["word"]
        number = float(NUMBER_WORDS[spelled.lower()]) if spelled else float(match["digits"].replace(",", ""))
        following = clean[match.end() :].lstrip(" -(").lower()
        hit, counted = _counted(clause, match.end(), named, evidence.nouns)
        of_group = bool(counted)  # how many of the behaviours, or what share, are of a category
        if counted:
            holds = any(all(number in _counts(kinds, one) for kinds in counted) for one in both)
        elif spelled:
            continue  # "two genres", "one of": no count of the partition
        elif following.startswith("%"):
            of_group = True
            holds = any(abs(number - 100 * facts.share(category.name)) <= 1 for category in facts.categories)
        elif re.match(r"(?:titles?|films?|movies?|items?|songs?|books?|behaviou?rs?)\b", following):
            holds = number in {one.size for one in both}
        elif clean[: match.start()].rstrip().endswith("(") or re.match(r"(?:of|ratings)\b", following):
            of_group = True
            holds = number in {one.size for one in both} | {c.count for one in both for c in one.categories}
        else:  # a mean or the user's age
            means = {round(one.mean, places) for one in both if one.mean is not None for places in (0, 1, 2)}
            holds = number in means | {float(text) for text in facts.profile.values() if text.isdecimal()}
        text, kind = f"{match[0]} {hit}".strip(), "count" if of_group else "number"
        yield Claim(kind, text, supported=holds, why="" if holds else "no such count here")


Kinds = tuple[tuple[str, ...], ...]  # categories that one thing is of at once, each by the names it may have


def _counted(clause: str, end: int, named: Named, nouns: tuple[str, ...]) -> tuple[str, list[Kinds]]:
    """What a number that ends there counts, and of which categories it is said: in "24 comedies and romances" of
    either, in "24 romantic comedies" of both at once, in "24 comedies and 14 romances" of the first alone.
    """
    behind = [one for one in named if one[0].start() >= end]
    if not behind or clause[end : behind[0][0].start()].strip(" -("):
        return "", []
    items = "|".join(["films?", "movies?", "titles?", "items?", *map(re.escape, nouns)])
    first, names = behind[0]
    counted: list[Kinds] = [(names,)]
    last, whole = first, (first.end(), 1)  # where a list ends that has its "and", and how many are in it
    for hit, own in behind[1:]:
        between = clause[last.end() : hit.start()]
        if between in (" ", "-"):
            counted[-1] = (*counted[-1], own)
            last, whole = hit, (hit.end(), len(counted)) if whole[1] == len(counted) else whole
            continue
        if link := re.fullmatch(rf"(?: (?:{items}))?(?:,? (?P<ends>and|or|&)|,) ", between, re.IGNORECASE):
            counted.append((own,))
            if not link["ends"]:
                last = hit
                continue
        else:
            break
        last, whole = hit, (hit.end(), len(counted))
    return clause[first.start() : whole[0]], counted[: whole[1]]


def _counts(kinds: Kinds, facts: Facts) -> set[int]:
    """How many behaviours are of a category, by each that its name may mean; or of several at once."""
    if len(kinds) == 1:
        return {category.count for name in kinds[0] if (category := facts.category(name))}
    return {sum(all(set(names) & set(title.categories) for names in kinds) for title in facts.titles)}


def profile_claims(rest: str, facts: Facts) -> Iterator[Claim]:
    texts = {text.lower() for text in facts.profile.values()}
    for match in GENDER.finditer(rest):
        said = {"f", "female", "woman"} if match["female"] else {"m", "male", "man"}
        holds = bool(texts & said)
        yield Claim("profile", match[0], supported=holds, why="" if holds else "the profile does not say so")


_WORD = re.compile(r"[^\W\d_][\w'’-]*")


def name_claims(rest: str, evidence: Evidence, *, first: bool) -> Iterator[Claim]:
    """Words from nowhere: neither plain vocabulary nor the catalogue's, the profile's or the period's."""
    known: frozenset[str] | None = None  # gathered when it is first asked for: most texts have plain words alone
    for match in _WORD.finditer(re.sub(r"\b\d+-year-olds?\b", " ", rest)):  # the number itself is checked
        word = match[0].rstrip("'’-")
        capital = word[0].isupper() and (not first or bool(rest[: match.start()].strip(" \"“'‘")))
        if word in MONTHS:
            holds = word in evidence.facts.period
            yield Claim("name", word, supported=holds, why="" if holds else f"the period is {evidence.facts.period}")
        elif not plain(word) and not GENDER.fullmatch(word):
            known = _known(evidence) if known is None else known
            if word.lower() in known:
                continue
            yield Claim("name" if capital else "detail", word, supported=False, why="nothing recorded says so")


def _known(evidence: Evidence) -> frozenset[str]:
    """The words of the catalogue, the profile and what items are called."""
    texts = (*evidence.facts.names, *evidence.facts.profile.values(), *evidence.nouns)
    return frozenset(word.lower() for text in texts for word in re.findall(r"\w+", text))
