"""Sentence filter: cuts what fails the claim check out of an LLM's text, and keeps the rest.

Decides what makes a sentence unusable (unsupported claims, nothing checkable, a copied prompt, a list of titles, talk
about itself, another language, repetition, no end) and whether enough remains. Pure; what counts as a claim is
`interest.check.category_claims`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from interest.check.category_claims import claims_in
from interest.check.evidence import Claim, Evidence, title_spans
from interest.check.lexicon import DOWN, PAST, STEADY, UP
from interest.check.opening import of_this_user
from interest.facts.categories import mentions

COPIED_WORDS = 14  # a run this long that also stands in the prompt is a copy; fact phrases of the prompts are shorter
MAX_TITLES = 3  # more in one sentence is a list
MIN_CLAIMS = 2  # fewer say too little about a user to be worth storing
MIN_WORDS = 6

_END = re.compile(r"[.!?][\"”’']?(?=\s|$)")
_ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|etc|e\.g|i\.e)|\b[A-Z])\.$")
# A sentence may be cut before these: what stands before them is a sentence by itself.
_TAIL = re.compile(
    r",? (?:which|who|with|but|while|whereas|although|though|despite|except|as well as|including|especially|such as)\b"
    r"|, (?:and (?:they|is|are|has|have|the user|this user|their|also|tends?|rated|enjoy\w*|like[sd]?)|they|from|"
    r"particularly|followed by|suggesting|indicating|showing|making|reflecting|giving|rating|resulting)\b"
    r"|;| – | — | \("
)
_VERB = re.compile(
    r"\b(?:is|are|was|has|have|had|likes?|liked|enjoy(?:s|ed)?|love[sd]?|prefer(?:s|red)?|rate[sd]?|watch(?:es|ed)?|"
    r"tends?|leans?|cho(?:oses?|se)|show(?:s|ed)?|favou?rs?|favou?red|includes?|included|care[sd]?|dislike[sd]?|"
    r"avoid(?:s|ed)?|"
    r"moved|turned|shifted|went|grew|rose|fell|became|stay(?:s|ed)|remain(?:s|ed)|gave|found|seems?|appears?|dropp?ed|"
    r"increased|decreased|changed|kept|gravitates?|valued|clicked|saved|played|viewed|bought|read|listened|picks?|picked|saw|sees|were|"
    r"focus(?:es|ed)?)\b",
    re.IGNORECASE,
)
_DANGLING = re.compile(
    r"\b(?:those|that|and|or|of|like|called|titled|the|a|an|in|for|to|as)\.$"
    r"|(?:as well as|including|particularly|especially|and|with) (?:(?:other|more|some|many|various) )?"
    r"(?:films|movies|titles|genres|ones|others)\.$"
)
_META = re.compile(
    r"\b(?:as an ai|language model|prompt|rewrit\w*|sentences?|paragraph|summar\w*|description|text|sure|certainly|"
    r"here (?:is|are)|I|I'm|my|me|we|us|our|you|your|yours|please|note|example|answer|question|instructions?|assistant|"
    r"given|provided|listed|respectively|dataset|data)\b|[#*_`|<>{}\[\]]|https?:",
    re.IGNORECASE,
)
_PART = re.compile(
    r"\b(?:with|particularly|especially|but|also|while|over|"
    r"and (?:was|were|enjoyed|loved|found|rated|had|has|is|are))\b"
)
_CLUMSY = re.compile(
    r"\ban? (?:dramas|comedies|thrillers|westerns|musicals|documentaries|romances|mysteries|"
    r"films|movies|titles|genres)\b"
    r"|^\W*(?:they|he|she|(?:this|the) user) (?:also )?(?!who\b|that\b)\w+ (?:the )?(?:most|best|highest|least|lowest)"
    r"(?: often| of all)? (?:was|were|is|are)\b"
    r"|\brated as\b(?! (?:one of|highly|high\b))"
    r"|\benjoyed (?:\S+ )+(?:higher|lower) ratings\b"
    r"|\benjoyed (?:(?!and |which |who |gave |\w+ed )[^\s,]+ )+(?:higher|lower) than\b"
    r"|\bwhile (?:less|fewer|more) (?:[\w'’-]+ )*[\w'’-]+\.$",
    re.IGNORECASE,
)
_CHANGE = re.compile("|".join(pattern.pattern for pattern in (UP, DOWN, STEADY, PAST)), re.IGNORECASE)
_NOUNS = frozenset({"film", "films", "movie", "movies", "title", "titles", "item", "items", "genre", "genres"})
_FUNCTION = (
    "the a an of and to in is are was were has have had this that they their them user with for as by on at more than "
    "less also most both other but not from over some these which who it its be been likes enjoys"
)
_FUNCTION_WORDS = frozenset(_FUNCTION.split())


Kept = list[tuple[str, list[Claim]]]  # the sentences before, each with its claims


@dataclass(frozen=True, slots=True)
class Verdict:
    text: str  # what may be kept; empty if nothing usable remains
    trimmed: bool  # something was cut
    claims: tuple[Claim, ...]  # of all that was written, before cutting
    kept: tuple[Claim, ...]  # of what may be kept: supported, all of them
    faults: tuple[str, ...]  # why sentences were cut


def check(text: str, evidence: Evidence, prompt: str = "", *, min_claims: int = MIN_CLAIMS) -> Verdict:
    """Hold a reply against the partition's facts and against the prompt it answers."""
    clean = _with_titles_as_written(_plain(text), evidence)
    claims: list[Claim] = []
    kept: Kept = []
    faults: list[str] = []
    trimmed = False
    copied = _runs(prompt, COPIED_WORDS)
    for sentence, whole in sentences(clean, evidence):
        asserted = claims_in(sentence, evidence)
        claims += asserted
        if whole and (bare := _without_empty_tail(sentence, evidence)) != sentence:
            faults.append(f"says nothing at its end: {sentence[len(bare) - 1 :]!r}")
            sentence, trimmed = bare, True  # noqa: PLW2901
        fault = "the sentence does not end" if not whole else _fault(sentence, asserted, evidence, copied, kept)
        if fault:
            trimmed = True
            faults.append(fault)
            head = next(_heads(sentence, evidence, copied, kept), None)
            if head is None:
                continue
            sentence, asserted = head  # noqa: PLW2901
        kept.append((sentence, asserted))
    if kept:
        first, inside = kept[0]
        first = re.sub(r"^They also\b", "They", first) if trimmed else first
        named = any(re.search(r"\b(?:this|the) user\b", sentence, re.IGNORECASE) for sentence, _ in kept)
        kept[0] = first if named else _naming_the_user(first, evidence), inside
    supported = [claim for _, inside in kept for claim in inside]
    usable = " ".join(sentence for sentence, _ in kept)
    distinct = {claim.about or claim.text for claim in supported if claim.kind in ("category", "title", "comparison")}
    general = {claim.about for claim in supported if claim.about}
    if len(distinct) < min_claims or not general or len(usable.split()) < MIN_WORDS:
        faults.append("too little is left" if usable else "nothing is left")
        usable = ""
    return Verdict(
        text=usable,
        trimmed=trimmed,
        claims=tuple(claims),
        kept=tuple(supported) if usable else (),
        faults=tuple(faults),
    )


def sentences(text: str, evidence: Evidence) -> Iterator[tuple[str, bool]]:
    """The sentences of a text, each with whether it has an end. A full stop inside a title ("E.T.") ends none."""
    inside = {at for start, end, _ in title_spans(text, evidence) for at in range(start, end)}
    start = 0
    for match in _END.finditer(text):
        no_end = match.start() in inside or _ABBREVIATION.search(text[: match.start() + 1])
        if no_end and match.end() < len(text):  # at the end of the text even "... such as E.T." ends a sentence
            continue
        yield text[start : match.end()].strip(), True
        start = match.end()
    if text[start:].strip():
        yield text[start:].strip(), False


def _naming_the_user(first: str, evidence: Evidence) -> str:
    """The first sentence that is kept, of "this user" where it was of "they" and claims the same so."""
    named = of_this_user(first, evidence.facts.verb)
    return named if named == first or claims_in(named, evidence) == claims_in(first, evidence) else first


def _without_empty_tail(sentence: str, evidence: Evidence) -> str:
    """Cut a last clause that says nothing that can be checked ("..., and enjoyed a variety of genres")."""
    tails = list(_TAIL.finditer(sentence))
    if not tails or claims_in(sentence[tails[-1].start() :], evidence):
        return sentence
    head = sentence[: tails[-1].start()].rstrip(" ,;") + "."
    return head if claims_in(head, evidence) and not _DANGLING.search(head) else sentence


def _heads(
    sentence: str, evidence: Evidence, copied: set[tuple[str, ...]], before: Kept
) -> Iterator[tuple[str, list[Claim]]]:
    """What stands of a sentence when its tail is cut, longest first."""
    for match in reversed(list(_TAIL.finditer(sentence))):
        head = sentence[: match.start()].rstrip(" ,;") + "."
        if len(head.split()) >= MIN_WORDS - 1 and _VERB.search(head):
            asserted = claims_in(head, evidence)
            if not _DANGLING.search(head) and not _fault(head, asserted, evidence, copied, before):
                yield head, asserted


def _fault(sentence: str, asserted: list[Claim], evidence: Evidence, copied: set[tuple[str, ...]], before: Kept) -> str:
    """Why a sentence cannot stay, or an empty text."""
    for claim in asserted:
        if not claim.supported:
            return f"{claim.kind} {claim.text!r}: {claim.why}"
    titles = [claim for claim in asserted if claim.kind == "title"]
    already = " ".join(text for text, _ in before).lower()
    bare = _without_titles(sentence, evidence)
    words = re.findall(r"[\w'’-]+", bare.lower())
    of_items = _NOUNS.union(*(noun.lower().split() for noun in evidence.nouns))
    of_items |= {word for name in (c.name for c in evidence.facts.categories) for word in name.lower().split()}
    content = [word for word in words if word not in _FUNCTION_WORDS and word not in of_items]
    about = Counter(claim.about for claim in asserted if claim.about)
    reasons = (
        (not asserted, "says nothing that can be checked"),
        (len(titles) > MAX_TITLES or (titles and len(words) < 2 * len(titles) + 2), "lists titles"),
        (bool(match := _META.search(bare)), f"talks about itself: {match[0]!r}" if match else ""),
        (sentence.count('"') % 2 == 1 or sentence.count("“") != sentence.count("”"), "quotes without an end"),
        (not _VERB.search(bare), "is not a sentence"),
        (not _english(words, bare), "is not English"),
        (any(count > 2 for count in Counter(content).values()), "repeats itself"),
        (_lists_twice(sentence, evidence), "lists the same twice"),
        (bool(_CLUMSY.search(bare)), "is not grammatical"),
        (_speaks_of_one(sentence, evidence), "speaks of one title as of a taste"),
        (evidence.before is not None and any(count > 1 for count in about.values()), "repeats itself"),
        (evidence.before is not None and not (about and _CHANGE.search(bare)), "tells no change"),
        (
            bool(set(_grams(words, 6)) & set(_grams(re.findall(r"[\w'’-]+", already), 6))),
            "repeats the sentence before",
        ),
        (_adds_nothing(asserted, before, change=evidence.before is not None), "says again what is said"),
        (bool(copied & set(_grams(re.findall(r"\w+", sentence.lower()), COPIED_WORDS))), "copies the prompt"),
    )
    return next((reason for holds, reason in reasons if holds), "")


def _lists_twice(sentence: str, evidence: Evidence) -> bool:
    """Whether a part names a category twice ("dramas, comedies and dramas"); "dramas and comedies, with a preference
    for dramas" does not."""
    for part in _PART.split(sentence):
        about = Counter(claim.about for claim in claims_in(part, evidence) if claim.about)
        if any(count > 1 for count in about.values()):
            return True
    return False


def _speaks_of_one(sentence: str, evidence: Evidence) -> bool:
    """ "including a comedy, a drama and a war film": no taste can be read from that."""
    if title_spans(sentence, evidence):
        return False
    pattern, _ = mentions(tuple(sorted({*evidence.categories, *(c.name for c in evidence.facts.categories)})))
    one = rf"\ban? (?:(?:{pattern.pattern})[ -]?)+(?:films?|movies?|titles?)?(?=[,.]| and\b)"
    return bool(re.search(one, sentence, re.IGNORECASE))


def _adds_nothing(asserted: Iterable[Claim], before: Kept, *, change: bool) -> bool:
    """Whether all of it was said, in the same way or with more: "31 dramas" and "enjoyed dramas" are two things to say,
    the second of which says the first. Of a change, what was named was said.
    """
    said = {_said(claim) for _, inside in before for claim in inside}
    named = {(what, kind) for what, kind, _ in said}
    return bool(said) and all(
        _said(claim) in said or ((change or _said(claim)[2] == 0) and _said(claim)[:2] in named) for claim in asserted
    )


def _said(claim: Claim) -> tuple[str, bool, int]:
    """What is named, whether it is compared, and whether it is called liked (1) or disliked (-1)."""
    return claim.text.lower(), claim.kind == "comparison", claim.liking - claim.disliking


def _with_titles_as_written(text: str, evidence: Evidence) -> str:
    """ "one fine day" becomes "One Fine Day" where that is a title of the partition."""
    for start, end, title in reversed(title_spans(text, evidence)):
        text = text[:start] + title.name + text[end:]
    return text


def _without_titles(sentence: str, evidence: Evidence) -> str:
    for start, end, _ in reversed(title_spans(sentence, evidence)):
        sentence = sentence[:start] + sentence[end:]
    return sentence


def _english(words: list[str], bare: str) -> bool:
    letters = [letter for letter in bare if letter.isalpha()]
    plain = sum(letter.isascii() for letter in letters) >= 0.97 * len(letters)
    return plain and sum(word in _FUNCTION_WORDS for word in words) >= 0.15 * len(words)


def _runs(text: str, length: int) -> set[tuple[str, ...]]:
    return set(_grams(re.findall(r"\w+", text.lower()), length))


def _grams(words: list[str], length: int) -> Iterable[tuple[str, ...]]:
    return (tuple(words[at : at + length]) for at in range(len(words) - length + 1))


def _plain(text: str) -> str:
    """One paragraph: what follows the first blank line or list is left out of account as a sentence without an end."""
    return re.sub(r"\s+", " ", text.replace("**", "")).strip()
