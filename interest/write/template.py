"""Statistics sentences: a summary and a shift made from the counts alone, marked Source.STATISTICS. They stand in where
no LLM text may be kept.

Pure. Every word follows from `Facts`, so it passes `interest.check` by construction.
"""

from __future__ import annotations

from collections.abc import Sequence

from interest.facts.categories import listed, plural, qualifier
from interest.facts.counts import Category, Facts
from interest.facts.mood import mood_sentence
from interest.facts.support import likes, support_of

MOVE = 0.06  # a category's share must move by 6 points (3 of 50) to be told; less is noise


def summary_sentence(facts: Facts, noun: tuple[str, str] = ("title", "titles")) -> str:
    """What the user did and what stood out: "This user rated 50 titles, mostly dramas (31) and thrillers (14)."."""
    many = noun[1] if facts.size != 1 else noun[0]
    start = f"This user {facts.verb} {facts.size:,} {many}"
    leading = facts.categories[:3]
    if not leading:
        return f"{start} of no known category."
    parts = [f"{start}, {_amount(leading[0], facts)} {_with_counts(leading, noun)}."]
    lifted = [category for category in facts.categories if category.lift > 0 and likes(category, facts)][:2]
    lowered = [category.name for category in facts.categories if category.lift < 0][:2]
    up, down = listed(_supported(category, facts, noun) for category in lifted), _group(lowered, noun)
    if up and down:
        parts.append(f"They valued {up} higher than the rest, and {down} lower.")
    elif up or down:
        parts.append(f"They valued {up or down} {'higher' if up else 'lower'} than the rest.")
    liked = [title.name for title in facts.top(2) if title.feeling > 0 and facts.supports(title)]
    if liked:
        parts.append(f"Among their favourites {'was' if len(liked) == 1 else 'were'} {listed(liked)}.")
    return " ".join(parts)


def shift_sentence(before: Facts, now: Facts, noun: tuple[str, str] = ("title", "titles")) -> str:
    """What grew and what fell between two partitions, by share of the behaviours, and whether the mood changed."""
    return " ".join(filter(None, (_taste(before, now, noun), mood_sentence(before, now))))


def no_change_sentence(before: Facts, now: Facts, noun: tuple[str, str] = ("title", "titles")) -> str:
    """That the tastes stayed, whatever the counts differ by; and whether the mood changed."""
    return " ".join(filter(None, (_same(before, now, noun), mood_sentence(before, now))))


def _taste(before: Facts, now: Facts, noun: tuple[str, str]) -> str:
    grew, fell = moves(before, now)
    if not grew and not fell:
        return _same(before, now, noun)
    if grew and fell:
        return f"This user turned from {_moved(fell, before, now, noun)} to {_moved(grew, before, now, noun)}."
    if grew:
        return f"This user chose more {_moved(grew, before, now, noun)} than in the period before."
    return f"This user chose fewer {_moved(fell, before, now, noun)} than in the period before."


def _same(before: Facts, now: Facts, noun: tuple[str, str]) -> str:
    kept = [category.name for category in now.categories[:2] if before.category(category.name)]
    same = f", with {_group(kept, noun)} still in front" if kept else ""
    return f"This user's interests stayed much the same as in the period before{same}."


def moves(before: Facts, now: Facts, count: int = 2) -> tuple[list[str], list[str]]:
    """The categories whose share of the behaviours grew and fell most, at most `count` of each."""
    names = {category.name for facts in (before, now) for category in facts.categories}
    change = {name: now.share(name) - before.share(name) for name in names}
    ordered = sorted(names, key=lambda name: (-change[name], name))
    grew = [name for name in ordered if change[name] >= MOVE][:count]
    fell = [name for name in reversed(ordered) if change[name] <= -MOVE][:count]
    return grew, fell


def _supported(category: Category, facts: Facts, noun: tuple[str, str]) -> str:
    """ "comedies (9 of 14 rated 4 or 5)"."""
    return f"{plural(category.name, noun[1])} ({support_of(category, facts)})"


def _amount(first: Category, facts: Facts) -> str:
    if len(facts.categories) == 1:
        return "all" if first.count == facts.size else "among them"
    return "mostly" if first.count * 2 >= facts.size else "among them"


def _with_counts(categories: Sequence[Category], noun: tuple[str, str]) -> str:
    return listed(f"{_named(category.name, category.count, noun)} ({category.count:,})" for category in categories)


def _named(name: str, count: int, noun: tuple[str, str]) -> str:
    if count != 1:
        return plural(name, noun[1])
    one = qualifier(name) if plural(name, "") != f"{qualifier(name)} " else f"{qualifier(name)} {noun[0]}"
    return f"{'an' if one[0].lower() in 'aeiou' else 'a'} {one}"


def _group(names: Sequence[str], noun: tuple[str, str]) -> str:
    return listed(plural(name, noun[1]) for name in names) if names else ""


def _moved(names: Sequence[str], before: Facts, now: Facts, noun: tuple[str, str]) -> str:
    def share(facts: Facts, name: str) -> int:
        category = facts.category(name)
        return category.count if category else 0

    return listed(f"{plural(name, noun[1])} (from {share(before, name)} to {share(now, name)})" for name in names)
