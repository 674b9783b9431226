"""The facts of one partition: counts of categories, values and titles, on which alone texts about it are written and
checked.

Decides what counts as liked, which titles tell most, and how a category stands against the rest of the partition.
Pure: behaviours, catalogue and profile in, `Facts` out. Knows nothing of prompts, models or tables.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import fmean, pstdev

from interest.facts.past_tense import past_tense
from interest.facts.values import Kind, Usual, kind_of
from interest.types import Behavior, Item, User

# Liked and disliked are relative to the user's own partition (half a standard deviation off its mean), because values
# may be stars, seconds or prices, and because people use scales differently.
FEELING_MARGIN = 0.5
# A category's mean is called higher or lower than usual from a quarter of a standard deviation and 3 valued titles on.
LIFT_MARGIN = 0.25
LIFT_COUNT = 3

# The actions that prompts name; whatever else a user did, they "chose". Two read better than their plain past tense.
_VERBS = {
    **{
        action: past_tense(action)
        for action in ("rate", "play", "view", "watch", "buy", "read", "listen", "like", "save")
    },
    "purchase": "bought",
    "click": "clicked on",
}
_UNKNOWN = {"", "unknown", "(no genres listed)", "none", "n/a"}
_YEAR_AT_END = re.compile(r"\s*\((\d{4})\)$")
_ARTICLE_AT_END = re.compile(r"^(?P<rest>.+), (?P<article>The|A|An|Les?|La|Los?|Il|El|Das|Die|Der)(?P<tail>$| \()")


@dataclass(frozen=True, slots=True, kw_only=True)
class Title:
    """One behaviour's item as a person would name it."""

    seq: int
    name: str
    year: int | None = None
    categories: tuple[str, ...] = ()
    value: float | None = None
    feeling: int = 0  # 1 liked, -1 disliked, 0 neither or no value


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """How one category stands in the partition."""

    name: str
    count: int
    liked: int
    disliked: int
    mean: float | None  # of the values of its titles
    lift: int  # 1 valued higher than this partition's mean, -1 lower, 0 neither or too few to say
    valued: int  # of its titles, with a value
    supporting: tuple[float, ...]  # of these values, those at or above the usual and not in the scale's lower half


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything a text about this partition may rest on."""

    size: int  # behaviours
    known: int  # of these, with a known category
    verb: str  # "rated", "played"...
    titles: tuple[Title, ...]  # in order of arrival; only those with a name
    categories: tuple[Category, ...]  # most frequent first
    mean: float | None  # of all values
    spread: float  # their standard deviation
    valued: int  # behaviours with a value
    kind: Kind  # of the values
    usual: Usual  # the user's, over all they did up to the partition's close
    opened_at: float
    closed_at: float
    profile: Mapping[str, str] = field(default_factory=dict)
    names: frozenset[str] = frozenset()  # further words of the catalogue about these items: a director, a country
    scene: str | None = None  # of all the behaviours, where scenes are kept apart; empty: without one
    recurring: tuple[tuple[str, int], ...] = ()  # people and themes that several items share, and how many, most first

    def supports(self, title: Title) -> bool:
        """Whether a text may call the title liked; where nothing is valued, nothing speaks against it."""
        return self.usual.supports(title.value, self.kind)

    def category(self, name: str) -> Category | None:
        return next((category for category in self.categories if category.name.lower() == name.lower()), None)

    def share(self, name: str) -> float:
        """The share of the behaviours in this category, 0 to 1."""
        category = self.category(name)
        return category.count / self.size if category and self.size else 0.0

    @property
    def years(self) -> tuple[int, ...]:
        """The release years of the titles, sorted, with repetition."""
        return tuple(sorted(title.year for title in self.titles if title.year is not None))

    @property
    def period(self) -> str:
        """When: "March 1998" or "March 1998 to May 1998"."""
        first, last = (f"{datetime.fromtimestamp(at, UTC):%B %Y}" for at in (self.opened_at, self.closed_at))
        return first if first == last else f"{first} to {last}"

    def top(self, count: int) -> list[Title]:
        """The titles that tell most: best valued first, then those of the commonest categories, then the latest."""
        weight = {category.name: category.count for category in self.categories}

        def telling(title: Title) -> tuple[float, int, int]:
            value = title.value if title.value is not None else (self.mean or 0.0)
            return (-value, -max((weight[name] for name in title.categories), default=0), -title.seq)

        return _first_of_each_name(sorted(self.titles, key=telling), count)

    def bottom(self, count: int) -> list[Title]:
        """The titles this user valued least, worst first; none where nothing was disliked."""
        disliked = [title for title in self.titles if title.feeling < 0]
        return _first_of_each_name(sorted(disliked, key=lambda title: (title.value or 0.0, -title.seq)), count)


def facts_of(
    behaviors: Sequence[tuple[int, Behavior]],
    catalogue: Mapping[str, Item],
    profile: User | None = None,
    usual: Usual | None = None,
    scene: str | None = None,
) -> Facts:
    """Count one partition's behaviours, given with their sequence numbers. Items missing in the catalogue have no
    title. Without `usual`, the user is taken to have done nothing before. `scene`: the partition's.
    """
    values = [behavior.value for _, behavior in behaviors if behavior.value is not None]
    mean = fmean(values) if values else None
    spread = pstdev(values) if len(values) > 1 else 0.0
    usual = usual or Usual.of(len(values), sum(values), max([0.0, *values]))
    actions = Counter(behavior.action for _, behavior in behaviors)
    action = actions.most_common(1)[0][0] if actions else ""
    kind = kind_of(action, values, usual.most)
    titles: list[Title] = []
    known = 0
    names: set[str] = set()
    details: Counter[str] = Counter()
    for seq, behavior in behaviors:
        item = catalogue.get(behavior.item_id)
        if item is None:
            continue
        categories = tuple(name for name in item.categories if name.strip().lower() not in _UNKNOWN)
        known += bool(categories)
        names.update(item.attributes.values())
        details.update({one for text in item.attributes.values() for one in parts_of(text)})
        name, year = readable_title(item)
        feeling = _feeling(behavior.value, mean, spread)
        titles.append(
            Title(seq=seq, name=name, year=year, categories=categories, value=behavior.value, feeling=feeling)
        )
    times = [behavior.at for _, behavior in behaviors] or [0.0]
    return Facts(
        size=len(behaviors),
        known=known,
        verb=_VERBS.get(action, "chose"),
        titles=tuple(title for title in titles if title.name),
        categories=_categories(titles, mean, spread, usual, kind),
        mean=mean,
        spread=spread,
        valued=len(values),
        kind=kind,
        usual=usual,
        opened_at=min(times),
        closed_at=max(times),
        profile={key: text for key, text in profile.attributes.items() if text} if profile else {},
        names=frozenset({*names, f"scene {scene}"} if scene else names),
        scene=scene,
        recurring=tuple(
            (name, count)
            for name, count in sorted(details.items(), key=lambda pair: (-pair[1], pair[0]))
            if count > 1 and count <= OF_EVERYONE * len(behaviors)
        ),
    )


def parts_of(text: str) -> tuple[str, ...]:
    """The people or themes of an attribute, "Tom Hanks|Tim Allen"; none of a number, a year or a whole sentence."""
    parts = (part.strip() for part in re.split(r"[|;]", text))
    return tuple(part for part in parts if len(part) <= LONGEST_NAME and sum(map(str.isalpha, part)) > len(part) / 2)


OF_EVERYONE = 0.4  # of a partition: what more of its items share, a language or a certificate, sets nobody apart
LONGEST_NAME = 40


def readable_title(item: Item) -> tuple[str, int | None]:
    """("The Usual Suspects", 1995) of "Usual Suspects, The" with a year column, or of "Usual Suspects, The (1995)"."""
    name = item.title.strip()
    year = next(
        (int(text[:4]) for key, text in item.attributes.items() if "year" in key.lower() and text[:4].isdecimal()), None
    )
    if match := _YEAR_AT_END.search(name):
        year = year or int(match[1])
        name = name[: match.start()]
    if match := _ARTICLE_AT_END.match(name):
        name = f"{match['article']} {match['rest']}{name[match.end('article') :]}"
    return name, year or None


def _feeling(value: float | None, mean: float | None, spread: float) -> int:
    if value is None or mean is None or spread == 0.0:
        return 0
    distance = (value - mean) / spread
    return (distance >= FEELING_MARGIN) - (distance <= -FEELING_MARGIN)


def _categories(
    titles: Iterable[Title], mean: float | None, spread: float, usual: Usual, kind: Kind
) -> tuple[Category, ...]:
    members: dict[str, list[Title]] = defaultdict(list)
    for title in titles:
        for name in title.categories:
            members[name].append(title)
    categories = []
    for name, of_category in members.items():
        values = [title.value for title in of_category if title.value is not None]
        category_mean = fmean(values) if values else None
        lift = 0
        if category_mean is not None and mean is not None and len(values) >= LIFT_COUNT and spread > 0.0:
            lift = (category_mean - mean >= LIFT_MARGIN * spread) - (mean - category_mean >= LIFT_MARGIN * spread)
        categories.append(
            Category(
                name=name,
                count=len(of_category),
                liked=sum(title.feeling > 0 for title in of_category),
                disliked=sum(title.feeling < 0 for title in of_category),
                mean=category_mean,
                lift=lift,
                valued=len(values),
                supporting=tuple(sorted(value for value in values if usual.supports(value, kind))),
            )
        )
    return tuple(sorted(categories, key=lambda category: (-category.count, category.name)))


def _first_of_each_name(titles: Iterable[Title], count: int) -> list[Title]:
    first: dict[str, Title] = {}
    for title in titles:
        first.setdefault(title.name, title)
    return list(first.values())[:count]
