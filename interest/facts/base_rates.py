"""Base rates: what users of this installation choose as a rule, frozen once, so that a text says what sets one apart.

A frozen snapshot is named in the version of the prompts that read it ("plain-2@1f0c52aa"), by a hash of what it holds:
texts by one version are made from the same rates, live, replayed and years later. It holds counts alone: how common
each category is, and for some partitions of different users how often they chose and how they valued each. No user, no
item, no title, no time and no profile is in it, so that forgetting a user leaves nothing of theirs to find. Pure.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import fsum, sqrt

import msgspec

from interest.facts.counts import Category, Facts, Title
from interest.facts.values import Kind, Usual

OTHERS = 60  # partitions that a text is held against: a third is known to 6 points
LEAST = 10  # partitions of different users; fewer are no base rate
FORM = 1  # of the snapshot; raised with its fields


class CountedGroup(msgspec.Struct, frozen=True, array_like=True):
    """One category in one partition: `interest.facts.counts.Category`."""

    name: str
    count: int
    liked: int
    disliked: int
    mean: float | None
    lift: int
    valued: int
    supporting: tuple[float, ...]


class CountedPartition(msgspec.Struct, frozen=True, kw_only=True):
    """One partition, counted."""

    size: int
    known: int
    verb: str
    groups: tuple[CountedGroup, ...]
    pairs: tuple[tuple[str, str], ...]  # categories that some item has both of
    decades: tuple[int, ...]  # of items' release years, 1990 for the 1990s, sorted, with repetition
    mean: float | None
    spread: float
    valued: int
    kind: str
    usual_mean: float | None
    usual_most: float


class BaseRates(msgspec.Struct, frozen=True, kw_only=True):
    """What users choose as a rule."""

    partitions: int  # that the rates are of, each of another user
    rates: dict[str, float]  # category: the mean share of a partition's behaviours in it
    others: tuple[CountedPartition, ...]
    form: int = FORM

    @property
    def version(self) -> str:
        """Eight hex digits of what it holds."""
        return hashlib.sha256(encode(self)).hexdigest()[:8]

    def lift(self, category: Category, facts: Facts) -> float:
        """How many times as large as usual the category's share of the partition is.

        One behaviour in two partitions is added to the rate, so that what hardly anybody chose is not set apart by a
        single choice.
        """
        return category.count / facts.size / (self.rates.get(category.name, 0.0) + 0.5 / facts.size)

    def surprise(self, category: Category, facts: Facts) -> float:
        """By how many standard deviations the category's count exceeds the usual: large for a share that is both many
        times the usual and of many behaviours.
        """
        usual = min(self.rates.get(category.name, 0.0) + 0.5 / facts.size, 0.99)
        return (category.count / facts.size - usual) * sqrt(facts.size / (usual * (1 - usual)))

    def strangers(self) -> tuple[Facts, ...]:
        """The counted partitions as facts. Titles have neither name nor value: no text can name one of them."""
        return tuple(map(_facts, self.others))


def freeze(partitions: Sequence[Facts]) -> BaseRates:
    """The base rates of partitions of different users, in a fixed order. Raises ValueError for fewer than LEAST."""
    if len(partitions) < LEAST:
        raise ValueError(f"{len(partitions)} partitions of different users; base rates take {LEAST} at least")
    names = sorted({category.name for facts in partitions for category in facts.categories})
    rates = {name: round(fsum(facts.share(name) for facts in partitions) / len(partitions), 6) for name in names}
    others = tuple(map(_counted, partitions[:OTHERS]))
    # read back, so that a whole number that stood for a float is one: the version is of what will be read
    return decode(encode(BaseRates(partitions=len(partitions), rates=rates, others=others)))


def encode(rates: BaseRates) -> bytes:
    return msgspec.json.encode(rates, order="deterministic")


def decode(text: bytes | str) -> BaseRates:
    """Raises msgspec.ValidationError or msgspec.DecodeError for what is not a snapshot of this form."""
    rates = msgspec.json.decode(text, type=BaseRates)
    if rates.form != FORM:
        raise msgspec.ValidationError(f"form {rates.form}; this version reads form {FORM}")
    return rates


def _counted(facts: Facts) -> CountedPartition:
    pairs = {pair for title in facts.titles for pair in combinations(sorted(set(title.categories)), 2)}
    return CountedPartition(
        size=facts.size,
        known=facts.known,
        verb=facts.verb,
        groups=tuple(
            CountedGroup(one.name, one.count, one.liked, one.disliked, one.mean, one.lift, one.valued, one.supporting)
            for one in facts.categories
        ),
        pairs=tuple(sorted(pairs)),
        decades=tuple(year // 10 * 10 for year in facts.years),
        mean=facts.mean,
        spread=facts.spread,
        valued=facts.valued,
        kind=facts.kind.name,
        usual_mean=facts.usual.mean,
        usual_most=facts.usual.most,
    )


NAMELESS = "\0"  # stands in no text


def _facts(one: CountedPartition) -> Facts:
    years: Mapping[int, int] = Counter(one.decades)
    titles = [Title(seq=-1, name=NAMELESS, year=year) for year, count in years.items() for _ in range(count)]
    titles += [Title(seq=-1, name=NAMELESS, categories=pair) for pair in one.pairs]
    return Facts(
        size=one.size,
        known=one.known,
        verb=one.verb,
        titles=tuple(titles),
        categories=tuple(Category(**msgspec.structs.asdict(group)) for group in one.groups),
        mean=one.mean,
        spread=one.spread,
        valued=one.valued,
        kind=Kind[one.kind],
        usual=Usual(one.usual_mean, one.usual_most),
        opened_at=0.0,
        closed_at=0.0,
    )
