"""Change of mood: whether a user valued everything higher or lower than in the period before. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from interest.facts.counts import Facts
from interest.facts.values import Kind, shown

MARGIN = 0.5  # of a standard deviation of both periods; less is noise
LEAST = 5  # values on either side


@dataclass(frozen=True, slots=True)
class Mood:
    """The mean of a period's values beside that of the period before."""

    before: float
    now: float

    @property
    def rose(self) -> bool:
        return self.now > self.before


def change_of_mood(before: Facts, now: Facts) -> Mood | None:
    """The means, where they differ enough to be told; only between values of one kind."""
    if before.mean is None or now.mean is None or min(before.valued, now.valued) < LEAST or before.kind != now.kind:
        return None
    spread = sqrt((before.spread**2 + now.spread**2) / 2)
    differs = abs(now.mean - before.mean) >= MARGIN * spread and _mean(before.mean, now) != _mean(now.mean, now)
    return Mood(before.mean, now.mean) if differs else None


_WORDS = {  # higher, lower
    Kind.RATING: ("rated higher", "rated lower"),
    Kind.SECONDS: ("{verb} for longer", "{verb} for shorter"),
    Kind.MILLISECONDS: ("{verb} for longer", "{verb} for shorter"),
    Kind.PRICE: ("chose what costs more", "chose what costs less"),
    Kind.NUMBER: ("gave higher values", "gave lower values"),
}


def mood_sentence(before: Facts, now: Facts) -> str:
    """ "They rated lower than in the period before (mean 3.7 to 2.9)."; empty where the mood stayed."""
    mood = change_of_mood(before, now)
    if mood is None:
        return ""
    words = _WORDS[now.kind][0 if mood.rose else 1].format(verb=now.verb)
    return f"They {words} than in the period before (mean {_mean(mood.before, now)} to {_mean(mood.now, now)})."


def _mean(value: float, facts: Facts) -> str:
    return f"{value:.1f}" if facts.kind is Kind.RATING else shown(value, facts.kind)
