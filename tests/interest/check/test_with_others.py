"""Comparisons with others are claims: held against the base rates, and unsupported where there are none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interest.check.category_claims import claims_in
from interest.check.evidence import Evidence
from interest.check.sentences import check
from interest.facts.among_others import Measure
from interest.facts.base_rates import LEAST, freeze
from tests.support.films import facts

NEW = [facts(*[(item, value) for item in ("2", "6", "8", "9", "10")]) for value in (1, 2, 3)]
RATES = freeze(NEW * LEAST)  # values of 1, 2 or 3, films of the 1990s
OWN = Evidence(facts(("4", 5), ("4", 5), ("3", 3), ("5", 5), ("6", 3), ("4", 5)), rates=RATES)  # higher, and older


@pytest.mark.parametrize(
    ("said", "measure", "direction", "holds"),
    [
        ("They gave higher ratings than most users.", Measure.VALUES, 1, True),
        ("They rated higher on average than others.", Measure.VALUES, 1, True),
        ("Their ratings were higher than those of most users.", Measure.VALUES, 1, True),
        ("They gave lower ratings than most users.", Measure.VALUES, -1, False),
        ("They rated older films than most users.", Measure.YEARS, -1, True),
        ("The films were older than those of most other users.", Measure.YEARS, -1, True),
        ("They rated newer films than most users.", Measure.YEARS, 1, False),
        ("They rated older films.", Measure.YEARS, -1, False),  # older than what?
    ],
)
def test_a_comparison_of_the_whole_partition(said: str, measure: Measure, direction: int, holds: bool) -> None:
    claims = claims_in(said, OWN)
    assert [(claim.measure, claim.direction, claim.supported) for claim in claims] == [(measure, direction, holds)]
    if holds:
        assert not claims_in(said, replace(OWN, rates=None))[0].supported


@pytest.mark.parametrize(
    "said",
    [
        "They gave dramas higher ratings than others.",  # than other categories
        "They enjoyed dramas, which they rated higher than others.",
        "They enjoyed older dramas than others.",  # nobody counts how old dramas are
    ],
)
def test_a_comparison_of_categories_says_nothing_of_the_whole(said: str) -> None:
    assert not [claim for claim in claims_in(said, OWN) if claim.measure]
    assert any(claim.text == "older" and not claim.supported for claim in claims_in(said, OWN)) == ("older" in said)


def test_a_false_comparison_is_cut_and_a_true_one_kept() -> None:
    text = "This user rated 4 comedies and 3 dramas. They gave higher ratings than most users."
    false = "They rated newer films than most users."
    kept = check(f"{text} {false}", OWN)
    assert kept.text == text
    assert kept.faults == ("comparison 'newer films than most users': above 0% of the others",)


def test_the_same_categories_said_in_another_way_are_not_said_twice() -> None:
    enjoyed = "This user rated 4 comedies and 3 war films. They enjoyed comedies and war films."
    assert check(enjoyed, OWN).text == enjoyed
    again = check(f"{enjoyed} They also liked war films and comedies.", OWN)
    assert again.text == enjoyed
    assert "says again what is said" in again.faults
    clumsy = check(f"{enjoyed} They enjoyed dramas lower than the rest.", OWN)
    assert clumsy.text == enjoyed
