"""Values are shown as what they are, and liking is measured by what a user usually gives."""

from __future__ import annotations

import pytest

from interest.facts.counts import Facts, facts_of
from interest.facts.mood import mood_sentence
from interest.facts.support import support_of
from interest.facts.values import Kind, Usual, kind_of, shown
from interest.types import Behavior, Item
from interest.write.template import shift_sentence, summary_sentence


@pytest.mark.parametrize(
    ("action", "values", "kind", "texts"),
    [
        ("rate", (4.0, 3.5), Kind.RATING, ("4", "3.5")),
        ("rating", (80.0, 7.0), Kind.RATING, ("80", "7")),
        ("play", (3130.0, 59.6), Kind.SECONDS, ("0:52:10", "0:01:00")),
        ("play", (905493.0, 200000.0), Kind.MILLISECONDS, ("0:15:05", "0:03:20")),
        ("rate", (905493.0, 3130000.0), Kind.MILLISECONDS, ("0:15:05", "0:52:10")),  # a log without an action column
        ("watch", (7325.0,), Kind.SECONDS, ("2:02:05",)),
        ("listen", (360000.0 * 1000,), Kind.MILLISECONDS, ("100:00:00",)),
        ("purchase", (1024.5, 9.99), Kind.PRICE, ("1,024.50", "9.99")),
        ("view", (1081.98, 35.0), Kind.PRICE, ("1,081.98", "35.00")),
        ("play", (3.0, 1.0), Kind.NUMBER, ("3", "1")),
    ],
)
def test_the_kind_of_values_and_how_they_read(
    action: str, values: tuple[float, ...], kind: Kind, texts: tuple[str, ...]
) -> None:
    assert kind_of(action, values, max(values)) is kind
    assert tuple(shown(value, kind) for value in values) == texts


@pytest.mark.parametrize(
    ("usual", "value", "holds"),
    [
        (Usual.of(10, 35.0, 5.0), 4.0, True),
        (Usual.of(10, 35.0, 5.0), 3.0, False),  # below what is usual
        (Usual.of(10, 18.0, 5.0), 2.0, False),  # usual for a harsh user, and still in the lower half
        (Usual.of(10, 18.0, 5.0), 3.0, True),
        (Usual.of(10, 30.0, 10.0), 4.0, False),
        (Usual.of(10, 30.0, 10.0), 6.0, True),
        (Usual(), 1.0, True),
        (Usual.of(10, 35.0, 5.0), None, True),
    ],
)
def test_a_value_shows_liking_at_the_users_usual_and_not_in_the_lower_half(
    usual: Usual, value: float | None, holds: bool
) -> None:
    assert usual.supports(value, Kind.RATING) is holds


def partition(*values: float, action: str = "rate", usual: Usual | None = None) -> Facts:
    catalogue = {
        str(at): Item(item_id=str(at), title=f"Film {at}", categories=("Comedy",)) for at in range(len(values))
    }
    rows = [
        (at, Behavior(user_id="u", item_id=str(at), action=action, at=float(at), value=value))
        for at, value in enumerate(values)
    ]
    return facts_of(rows, catalogue, usual=usual)


@pytest.mark.parametrize(
    ("facts", "count"),
    [
        (partition(5, 4, 4, 2, 1, usual=Usual.of(100, 350.0, 5.0)), "3 of 5 rated 4 or 5"),
        (partition(5, 5, 1, usual=Usual.of(100, 350.0, 5.0)), "2 of 3 rated 5"),
        (partition(4.5, 4, 5, 1, usual=Usual.of(100, 350.0, 5.0)), "3 of 4 rated 4 or higher"),
        (partition(1, 2, 2, 1, usual=Usual.of(100, 180.0, 5.0)), "0 of 4 rated 3 or higher"),
        (
            partition(190_000, 905_493, 10_000, action="play", usual=Usual.of(10, 1_000_000.0, 905_493.0)),
            "2 of 3 played for 0:03:10 or longer",
        ),
        (partition(20.5, 9.99, action="purchase", usual=Usual.of(2, 30.49, 20.5)), "1 of 2 bought at 20.50 or more"),
    ],
)
def test_the_count_behind_a_liking_is_said(facts: Facts, count: str) -> None:
    assert support_of(facts.categories[0], facts) == count


def test_a_change_of_mood_is_told_in_the_terms_of_the_values() -> None:
    before, now = partition(4, 4, 3, 4, 4, 3, 4), partition(3, 3, 2, 3, 4, 3, 2)
    told = "They rated lower than in the period before (mean 3.7 to 2.9)."
    assert mood_sentence(before, now) == told
    assert mood_sentence(now, before) == "They rated higher than in the period before (mean 2.9 to 3.7)."
    assert shift_sentence(before, now).endswith(told)
    assert mood_sentence(before, before) == ""
    assert mood_sentence(partition(4, 4, 5), partition(1, 1, 2)) == ""  # too few to say
    songs = [partition(*([seconds] * 5), action="play") for seconds in (300.0, 60.0)]
    assert mood_sentence(*songs) == "They played for shorter than in the period before (mean 0:05:00 to 0:01:00)."
    assert mood_sentence(songs[0], now) == ""  # of another kind


def test_a_summary_calls_nothing_a_favourite_that_was_valued_low() -> None:
    facts = partition(1, 2, 2, 1, 1, 2, usual=Usual.of(100, 180.0, 5.0))
    assert "favourite" not in summary_sentence(facts)
    assert "favourite" in summary_sentence(partition(1, 5, 4, 1, 1, 4, usual=Usual.of(100, 280.0, 5.0)))
