"""Which texts a review shows: those that fell furthest short, and not whoever's id comes first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from interest.check.evidence import Evidence
from interest.review.measures import Measured, measure
from interest.review.report import worst
from tests.support.films import facts

LEFT_OUT = "This user enjoyed dramas."
CONTRADICTING = "This user enjoyed thrillers."


def text(user: str, said: str, dramas: float, comedies: float, thrillers: float = 4.0) -> Any:
    """A text about three of each, 2 dramas of which are 5s."""
    rated = [("6", 5.0), ("8", 5.0), ("7", dramas), *[("4", comedies)] * 3, *[("9", thrillers)] * 3]
    interest = SimpleNamespace(user_id=user, index=0, summary=said)
    return SimpleNamespace(interest=interest, evidence=Evidence(facts(*rated)))


def measured(one: Any, *, generic: bool | None = None) -> Measured:
    found = measure(one.interest.summary, one.evidence, [])
    return Measured(generic, found.covers, found.best, found.contradicts, found.words, found.pattern)


def order(texts: list[Any], *, generic: bool | None = None) -> list[str]:
    return [one.user_id for one in worst(texts, [measured(one, generic=generic) for one in texts])]


def test_what_leaves_out_most_comes_first() -> None:
    some = [text(user, LEFT_OUT, 4.0, 5.0, thrillers) for user, thrillers in (("1", 4.5), ("2", 4.0), ("3", 1.0))]
    assert order(some) == ["2", "1", "3"]  # comedies lie 0.9, 0.8 and 0.79 of the user's deviations above the mean


def test_what_is_called_liked_and_lies_lowest_comes_first_and_contradictions_before_all() -> None:
    some = [
        text("1", CONTRADICTING, 5.0, 3.0, 3.0),  # 0.7 of the user's deviations below the mean
        text("2", CONTRADICTING, 5.0, 4.4, 4.5),  # 0.5
        text("3", CONTRADICTING, 5.0, 5.0, 4.0),  # 1.4
        text("0", LEFT_OUT, 4.0, 5.0),
    ]
    assert order(some) == ["3", "1", "2", "0"]


def test_of_generic_texts_the_commonest_come_first() -> None:
    some = [text(str(at), said, 5.0, 3.0) for at, said in enumerate([LEFT_OUT, "They liked dramas.", LEFT_OUT])]
    assert order(some, generic=True) == ["0", "2", "1"]
