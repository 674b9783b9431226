"""Prompts that ask for what sets a user apart: plain-2 and json-2, read beside frozen base rates (plain-3, which tells
more, is in `interest.write.place`).

plain-2  for small models. It tells the categories that the user valued best, those chosen much more often than users
         choose them as a rule, and favourite titles of these; never the commonest categories of everyone. The answer
         begins with what the statement says first. Where nothing sets the user apart it tells what plain-1 tells, and
         the answer is replaced if it would do for anybody.
json-2   for capable models: all the facts with how many times as common as usual each category is, the change of the
         user's mean, the categories valued worst, and people and themes of the catalogue that come back.

A shift is asked for only where some category's share changed beyond chance (`interest.facts.change`), and is told what
did. Pure: facts and frozen rates in, requests out; a change of any word here is a new version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from interest.facts.base_rates import BaseRates
from interest.facts.categories import listed, plural, qualifier
from interest.facts.change import changed
from interest.facts.counts import Category, Facts, Title
from interest.facts.groups import TOLD, best_liked, likable, told_highest, worst_valued
from interest.facts.values import Kind, shown
from interest.llm.protocol import Request
from interest.write.prompts import Prompt, Style, inside_fields, json_request, plain_request, titles_valued

FAR_MORE = 1.3  # times the usual share
LEAST_SHARE = 0.06  # 3 of 50, as the claim check has it
GROUPS = TOLD


@dataclass(frozen=True, slots=True)
class Telling:
    """What sets a user apart in one partition."""

    best: tuple[Category, ...]  # valued best, above the user's mean
    more: tuple[Category, ...]  # chosen far more than users do as a rule, liked or not; without the best
    favourites: tuple[Title, ...]  # of these categories before others


def telling(facts: Facts, rates: BaseRates) -> Telling:
    """The categories and titles to tell, such as the claim check lets a text call liked."""
    best = best_liked(facts)
    least = max(3, LEAST_SHARE * facts.size)
    often = [
        category
        for category in facts.categories
        if category not in best and category.count >= least and rates.lift(category, facts) >= FAR_MORE
    ]
    often.sort(key=lambda category: (-rates.surprise(category, facts), category.name))
    more = often[:GROUPS]
    named = {category.name for category in (*best, *more)}
    leading = {category.name for category in best}
    liked = [title for title in facts.top(len(facts.titles)) if title.feeling > 0 and facts.supports(title)]
    liked.sort(
        key=lambda title: (
            -(title.value or 0.0),
            -len(leading & set(title.categories)),
            -len(named & set(title.categories)),
        )
    )
    return Telling(best=tuple(best), more=tuple(more), favourites=tuple(liked[:GROUPS]))


def plain_2(rates: BaseRates) -> Prompt:
    """plain-2 by these rates."""

    def summary(facts: Facts, previous: str | None, attempt: int, style: Style) -> Request:
        told = telling(facts, rates)
        many = style.noun[1]
        question = f"What kind of {many} does this user like most, and what do they choose more often than others?"
        lines = [f"{question} Name the {style.groups}. Answer in two short sentences.\n"]
        if previous is not None:
            lines.append(f"Before: {previous}")
        loved, groups = first_told(facts, told)
        statement = [f"The user {loved} {_named(groups, many)}."]
        more = [category for category in told.more if category not in groups]
        if more and attempt == 0:
            statement.append(f"They {facts.verb} more {_named(more, many)} than others.")
        if told.favourites and attempt != BARE:
            title = told.favourites[0]
            kinds = [group for group in groups if group.lift > 0 and group.name in title.categories][:1]
            statement.append(f"One of the favourites was {_title(title, kinds, style)}.")
        opening = f"This user {loved}" if attempt < LAST else "This user"
        asked = plain_request("\n".join([*lines, " ".join(statement)]), opening, attempt)
        return msgspec.structs.replace(asked, temperature=0.0) if attempt < LAST else asked

    def shift(before: Facts, now: Facts, _s_before: str, _s_now: str, attempt: int, style: Style) -> Request:
        many = style.noun[1]
        moved = changed(before, now)
        parts = [(word, names[:GROUPS]) for word, names in (("more", moved.grew), ("fewer", moved.fell)) if names]
        change = " and ".join(f"{word} {listed(plural(name, many) for name in names)}" for word, names in parts)
        statement = (f"Lately the user has been choosing {change}.", f"There are {change} than in the period before.")
        question = f"How did this user's taste in {many} change? Answer in one or two short sentences.\n"
        opening = f"This user now chooses {'more' if moved.grew else 'fewer'}"
        return plain_request(f"{question}\n{statement[attempt % 2]}", opening, attempt)

    version = f"plain-2@{rates.version}"
    return inside_fields(Prompt(version, summary, shift, rates, rates.strangers(), tested=True))


def first_told(facts: Facts, told: Telling) -> tuple[str, Sequence[Category]]:
    """What the statement says first, and of which categories; of two where there are two, for one alone is repeated
    alone, which says too little.
    """
    loved, groups = _first(facts, told)
    if len(groups) == 1 and (beside := _beside(groups[0], facts, told)):
        return "enjoyed", (*groups, beside)
    return loved, groups


def _first(facts: Facts, told: Telling) -> tuple[str, Sequence[Category]]:
    """What the statement says first, and of which categories: such as were valued best, else as are liked."""
    if highest := told_highest(facts):
        return _LOVED[facts.kind], highest
    if groups := told.best or [category for category in told.more if likable(category, facts)]:
        return "enjoyed", groups
    liked = [category for category in facts.categories if likable(category, facts) and category.count > 1]
    return ("enjoyed", liked[:GROUPS]) if liked else (facts.verb, facts.categories[:GROUPS])


def _beside(first: Category, facts: Facts, told: Telling) -> Category | None:
    """Another category that is liked, the most telling first."""
    least = max(2, LEAST_SHARE * facts.size)
    others = (*told.best, *told.more, *(each for each in facts.categories if each.count >= least))
    return next((each for each in others if each != first and likable(each, facts)), None)


def _title(title: Title, kinds: Sequence[Category], style: Style) -> str:
    """ "Star Wars", a war film; of a category only where the claim check lets that be called a favourite."""
    if not kinds:
        return f'the {style.noun[0]} "{title.name}"'
    kind = qualifier(kinds[0].name)
    return f'"{title.name}", {"an" if kind[0] in "aeiou" else "a"} {kind} {style.noun[0]}'


def _named(groups: Sequence[Category], many: str) -> str:
    return listed(plural(category.name, many) for category in groups)


BARE = 2  # the attempt that names no title
LAST = 3  # the attempt that is sampled; those before it are greedy, and tell less and less
_LOVED = {
    Kind.RATING: "gave the highest ratings to",
    Kind.SECONDS: "favoured",
    Kind.MILLISECONDS: "favoured",
    Kind.PRICE: "favoured",
    Kind.NUMBER: "favoured",
}
_APART = (
    "You describe what sets one user of a catalogue apart from others, from a table of facts. Two or three plain "
    "sentences in English, in the third person. Name what this user valued best, and what they chose much more "
    "often than others do; leave out what everybody chooses. Say only what the facts show: categories, how often, how "
    "valued, a title or two, people and themes that are listed. No places, no plot, no guesses. In `evidence` give the "
    "numbers of the titles that show it best."
)
COMING_BACK = 3  # items of a partition that share a person or a theme, at least
PEOPLE = 5


def json_2(rates: BaseRates) -> Prompt:
    """json-2 by these rates."""

    def summary(facts: Facts, previous: str | None, attempt: int, style: Style) -> Request:
        content = apart_table(facts, rates, style)
        if previous is not None:
            content = f"Summary of the period before: {previous}\n\n{content}"
        return json_request(f"{content}\n\nWhat sets this user apart?", attempt, _APART)

    def shift(before: Facts, now: Facts, s_before: str, s_now: str, attempt: int, style: Style) -> Request:
        moved = changed(before, now)
        parts = [
            f"{word}: {', '.join(f'{name} (from {_count(before, name)} to {_count(now, name)})' for name in names)}."
            for word, names in (("Grew", moved.grew), ("Fell", moved.fell))
            if names
        ]
        content = (
            f"The period before: {s_before}\nNow: {s_now}\n{' '.join(parts)}\n{titles_valued(now, style)}\n\n"
            "How did this user's interests shift? One or two sentences, on what grew and fell alone."
        )
        return json_request(content, attempt, _APART)

    version = f"json-2@{rates.version}"
    return inside_fields(Prompt(version, summary, shift, rates, rates.strangers(), tested=True))


def apart_table(facts: Facts, rates: BaseRates, style: Style) -> str:
    """All the facts, with how many times as common as usual each category is."""
    lines = [f"The user {facts.verb} {facts.size} {style.noun[1]} in {facts.period}."]
    if facts.mean is not None and facts.usual.mean is not None:
        lines.append(f"Mean value {shown(facts.mean, facts.kind)}; so far {shown(facts.usual.mean, facts.kind)}.")
    told = telling(facts, rates)
    for title, groups in (
        ("Valued best", told.best),
        ("Chosen much more often than others do", told.more),
        ("Valued worst", tuple(worst_valued(facts)[:GROUPS])),
    ):
        if groups:
            lines.append(f"{title}: {', '.join(_group(category, facts, rates) for category in groups)}.")
    if people := _coming_back(facts):
        lines.append(f"People and themes that come back: {', '.join(people)}.")
    return "\n".join([*lines, titles_valued(facts, style)])


def _group(category: Category, facts: Facts, rates: BaseRates) -> str:
    mean = "" if category.mean is None else f", mean {shown(category.mean, facts.kind)}"
    return f"{category.name} {category.count} ({rates.lift(category, facts):.1f} times the usual share{mean})"


def _coming_back(facts: Facts) -> list[str]:
    return [f"{name} ({count})" for name, count in facts.recurring if count >= COMING_BACK][:PEOPLE]


def _count(facts: Facts, name: str) -> int:
    category = facts.category(name)
    return category.count if category else 0


APART: dict[str, Callable[[BaseRates], Prompt]] = {"plain-2": plain_2, "json-2": json_2}
