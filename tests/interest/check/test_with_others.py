"""Comparisons with others are claims: held against the base rates, and unsupported where there are none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interest.check.category_claims import claims_in
from interest.check.evidence import Evidence
from interest.check.sentences import check
from interest.facts.among_others import Measure
from interest.facts.base_rates import LEAST, freeze
from interest.facts.values import Kind
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
        "They rated older films.",  # older than what?
        "They watched fewer older films than most users.",
        "They never rated older films than most users.",
        "They rarely gave higher ratings than others.",
        "Their ratings were not higher than those of most users.",
        "They avoided older films than most users.",
        "They gave higher ratings to older films than most users.",
        "They gave the highest ratings to older films than most users.",
        "This user is older than most users.",
        "The number of films they rated is higher than others.",
        "They gave higher ratings than all other users.",
        "They rated older films than any other users.",
        "They watched films for longer than most users.",  # these are ratings, no times
        "They chose what costs more than most users.",
        "They gave higher ratings than most users to war films.",
        "They rated no higher than most users.",
        "They rated nothing higher than most users.",
        "They rated women higher than most users.",
        "They rated older films lower than most users.",
        "They rated older Japanese films than most users.",
        "The actors were older than most users.",
        "They chose older friends than others.",
        "They rated them higher than others.",
        "They watched comedies for longer than most users.",
        "They gave higher ratings to comedies than most users.",  # nobody counts how others value comedies
        "They enjoyed older dramas than others.",
    ],
)
def test_what_is_not_counted_of_the_whole_partition_is_unsupported(said: str) -> None:
    claims = claims_in(said, OWN)
    assert not all(claim.supported for claim in claims)
    assert not [claim for claim in claims if claim.measure]


def test_the_words_go_with_the_kind_of_the_values() -> None:
    values = {
        Kind.RATING: "They gave higher ratings than most users.",
        Kind.SECONDS: "They played songs for longer than most users.",
        Kind.PRICE: "They chose what costs more than most users.",
        Kind.NUMBER: "They gave higher values than most users.",
    }
    for kind in values:
        rates = freeze([replace(facts, kind=kind) for facts in NEW] * LEAST)
        own = Evidence(replace(OWN.facts, kind=kind), rates=rates, nouns=("song", "songs"))
        for other, sentence in values.items():
            assert all(claim.supported for claim in claims_in(sentence, own)) == (kind is other), (kind, sentence)


@pytest.mark.parametrize(
    "said",
    [
        "They gave dramas higher ratings than others.",  # than other categories
        "They enjoyed dramas, which they rated higher than others.",
    ],
)
def test_a_comparison_of_categories_says_nothing_of_the_whole(said: str) -> None:
    assert not [claim for claim in claims_in(said, OWN) if claim.kind == "comparison"]


def test_a_false_comparison_is_cut_and_a_true_one_kept() -> None:
    text = "This user rated 4 comedies and 3 dramas. They gave higher ratings than most users."
    false = "They rated newer films than most users."
    kept = check(f"{text} {false}", OWN)
    assert kept.text == text
    assert kept.faults == ("comparison 'They rated newer films than most users': above 0% of the others",)


def test_the_same_categories_said_in_another_way_are_not_said_twice() -> None:
    enjoyed = "This user rated 4 comedies and 3 war films. They enjoyed comedies and war films."
    assert check(enjoyed, OWN).text == enjoyed
    again = check(f"{enjoyed} They also liked war films and comedies.", OWN)
    assert again.text == enjoyed
    assert "says again what is said" in again.faults
    loop = check(f"{enjoyed} They rated dramas lower than the rest. They enjoyed comedies. They enjoyed comedies.", OWN)
    assert loop.text == f"{enjoyed} They rated dramas lower than the rest."
    assert check("This user enjoyed comedies and war films. They rated comedies and war films.", OWN).trimmed
    higher = "This user enjoyed comedies and war films and rated them higher than the other films."
    assert check(higher, OWN).text == higher
    fewer = "This user rated 3 comedies and 2 dramas. They enjoyed comedies."
    assert "says again what is said" not in check(f"{fewer} They rated 4 comedies.", OWN).faults
    clumsy = check(f"{enjoyed} They enjoyed dramas lower than the rest.", OWN)
    assert clumsy.text == enjoyed
