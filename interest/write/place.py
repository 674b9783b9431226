"""plain-3, for small models: what comes back in a user's next partition, and so tells users apart.

It tells the commonest two categories with their counts, those valued best, those chosen much more often than users
choose them as a rule, what was valued lower than the rest, and where the user stands among others: how high they value
things, and how old what they choose is. It names no title: titles are the text's evidence, and pull its vector away
from what a user shares with their own next partition (benchmarks/README.md).

Six facts are more than a 135M model repeats by itself: it stops, or says one of them for ever. So an answered example
stands in front of the question, with sentences of the same kinds and directions and with categories of nobody's; what
is taken over from it names what the partition does not have, and is cut.

Pure: facts and frozen rates in, requests out; a change of any word here is a new version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from interest.check.sentences import MIN_CLAIMS
from interest.facts.among_others import Measure, far_from_most
from interest.facts.base_rates import BaseRates
from interest.facts.categories import counted, listed, plural
from interest.facts.counts import Category, Facts
from interest.facts.values import Kind
from interest.llm.protocol import Message, Request
from interest.write.apart import GROUPS, LAST, LEAST_SHARE, first_told, plain_2, telling
from interest.write.prompts import Prompt, Style, inside_fields, plain_request

LEAST_SAID = 3  # where there is as much to tell: more than the commonest two categories
LONGEST = 112  # tokens of an answer: six short sentences
_HIGHER = {
    Kind.RATING: ("They gave higher ratings than most users.", "They gave lower ratings than most users."),
    Kind.SECONDS: ("They {verb} {many} for longer than most users.", "They {verb} {many} for shorter than most users."),
    Kind.PRICE: ("They chose what costs more than most users.", "They chose what costs less than most users."),
    Kind.NUMBER: ("They gave higher values than most users.", "They gave lower values than most users."),
}
_HIGHER[Kind.MILLISECONDS] = _HIGHER[Kind.SECONDS]
_NEWER = ("They {verb} newer {many} than most users.", "They {verb} older {many} than most users.")


@dataclass(frozen=True, slots=True)
class Place:
    """What plain-3 tells of one partition."""

    loved: str  # "gave the highest ratings to"
    commonest: tuple[tuple[str, int], ...]  # categories and their counts
    best: tuple[str, ...]
    more: tuple[str, ...]
    lower: tuple[str, ...]
    higher: int  # how high values are beside others': 1, -1 or, where that is not far from most, 0
    newer: int  # the same of what was chosen

    @property
    def distinct(self) -> int:
        """How many things the claim check counts in it, without the commonest: categories, comparisons with others."""
        return len({*self.best, *self.more, *self.lower}) + len(self.more) + bool(self.higher) + bool(self.newer)

    def example(self, facts: Facts) -> Place:
        """A place of the same kind and directions, of categories that are not words of this catalogue or profile."""
        texts = (*facts.names, *facts.profile.values(), *(category.name for category in facts.categories))
        words = {word for text in texts for word in re.findall(r"\w+", text.lower())}
        unheard = [name for name in _NOBODYS if name not in words]
        nobodys = unheard if len(unheard) >= 2 * GROUPS else _NOBODYS
        return replace(
            self,
            commonest=tuple(zip(nobodys[: len(self.commonest)], (40, 30), strict=False)),
            best=tuple(nobodys[1 : 1 + len(self.best)]),
            more=tuple(nobodys[: len(self.more)]),
            lower=tuple(nobodys[3 : 3 + len(self.lower)]),
        )


_NOBODYS = ["gardening", "sailing", "chess", "cooking", "pottery", "beekeeping", "origami", "archery", "rowing"]


def place_of(facts: Facts, rates: BaseRates) -> Place:
    """What the claim check lets a text say of the partition, the surest first."""
    told = telling(facts, rates)
    loved, groups = first_told(facts, told)
    lower = [category for category in facts.categories if category.lift < 0 and category not in groups]
    least = max(2, LEAST_SHARE * facts.size)
    commonest = [category for category in facts.categories[:GROUPS] if category.count >= least]
    return Place(
        loved=loved,
        commonest=tuple((category.name, category.count) for category in commonest or facts.categories[:1]),
        best=_names(groups),
        more=_names(category for category in told.more if category not in groups),
        lower=_names(lower[:1]),
        higher=far_from_most(Measure.VALUES, facts, rates),
        newer=far_from_most(Measure.YEARS, facts, rates),
    )


def statement(place: Place, facts: Facts, style: Style) -> list[str]:
    """A sentence for each kind of fact, all of "they"."""
    many, did, valued = style.noun[1], _did(facts), "rated" if facts.kind is Kind.RATING else "valued"
    commonest = listed(counted(name, count, style.noun) for name, count in place.commonest)

    def named(names: Sequence[str]) -> str:
        return listed(plural(name, many) for name in names)

    sentences = [
        f"They {did} {commonest}.",
        f"They {place.loved} {named(place.best)}." if place.loved != did else "",
        f"They {did} more {named(place.more)} than others." if place.more else "",
        f"They {valued} {named(place.lower)} lower than the rest." if place.lower else "",
    ]
    for direction, words in ((place.higher, _HIGHER[facts.kind]), (place.newer, _NEWER)):
        sentences.append(words[direction < 0].format(verb=did, many=many) if direction else "")
    return [sentence for sentence in sentences if sentence]


def plain_3(rates: BaseRates) -> Prompt:
    """plain-3 by these rates."""

    def summary(facts: Facts, previous: str | None, attempt: int, style: Style) -> Request:
        place = place_of(facts, rates)
        question = f"What sets this user apart? Name the {style.groups}. Answer in short sentences.\n"
        lines = [question, f"Before: {previous}"] if previous is not None else [question]
        sentences = statement(place, facts, style)
        told, shown = _left(sentences, attempt), _left(statement(place.example(facts), facts, style), attempt)
        opening = f"This user {place.loved if 0 < attempt < LAST else _did(facts)}"
        asked = plain_request("\n".join([*lines, _of("The", told)]), opening, attempt)
        system, question_asked = asked.messages
        example = (Message("user", f"{question}\n{_of('The', shown)}"), Message("assistant", _of("This", shown)))
        return msgspec.structs.replace(
            asked,
            messages=(system, *example, question_asked),
            max_tokens=LONGEST,
            temperature=0.0 if attempt < LAST and told != _left(sentences, attempt - 1) else asked.temperature,
        )

    version = f"plain-3@{rates.version}"
    shift = plain_2(rates).shift
    asks = Prompt(version, summary, shift, rates, rates.strangers(), tested=True, repeated=True)
    return inside_fields(
        replace(asks, least=lambda facts: max(MIN_CLAIMS, min(LEAST_SAID, place_of(facts, rates).distinct)))
    )


def _did(facts: Facts) -> str:
    """What the user did, in words that say nothing of liking: "liked 31 dramas" would be said of what is valued low."""
    return "chose" if facts.verb == "liked" else facts.verb


def _left(sentences: Sequence[str], attempt: int) -> Sequence[str]:
    """What is told at an attempt: after an answer that was cut to nothing, or would do for anybody, less to repeat."""
    if attempt not in (1, 2):
        return sentences
    behind = sentences[1:] or sentences
    return behind if attempt == 1 else behind[: max(2, min(3, len(behind) - 1))]


def _of(which: str, sentences: Sequence[str]) -> str:
    """The sentences, of "the user" or "this user" first."""
    return " ".join([sentences[0].replace("They ", f"{which} user ", 1), *sentences[1:]])


def _names(groups: Iterable[Category]) -> tuple[str, ...]:
    return tuple(group.name for group in groups)
