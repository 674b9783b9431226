"""What a text leaves out, contradicts, and says of everybody."""

from __future__ import annotations

import pytest

from interest.check.evidence import Evidence
from interest.check.generality import Subject, count_general
from interest.facts.among_others import Measure
from interest.facts.base_rates import LEAST, freeze
from interest.facts.counts import Facts
from interest.facts.groups import best_group, worst_valued
from interest.review.measures import masked, measure, pattern_of
from interest.review.report import OTHERS, company_of
from interest.review.specificity import clues_of
from tests.support.films import facts

MANY_DRAMAS = [("2", 5), ("3", 5), ("6", 5), ("8", 5), ("7", 3), ("5", 3)]


@pytest.fixture
def others() -> list[Evidence]:
    """Nine who like dramas, three who watch action alone."""
    return [Evidence(facts(*MANY_DRAMAS))] * 9 + [Evidence(facts(*[("9", 4), ("10", 4)] * 3))] * 3


def test_the_best_valued_group_is_named_or_left_out(evidence: Evidence) -> None:
    assert best_group(evidence.facts) == ("Comedy",)  # three of them, all 5
    assert measure("This user enjoyed dramas and comedies.", evidence, []).covers
    assert measure("This user enjoyed dramas.", evidence, []).covers is False
    assert measure("This user enjoyed dramas and disliked comedies.", evidence, []).covers is False
    level = Evidence(facts(*[(item, 4.0) for item in "2356784"]))
    assert measure("This user enjoyed dramas.", level, []).covers is None


def test_what_lies_below_the_users_mean_and_is_called_liked_contradicts(evidence: Evidence, march: Facts) -> None:
    assert [category.name for category in worst_valued(march)] == ["Thriller"]
    assert measure("This user enjoyed dramas and thrillers.", evidence, []).contradicts == ("Thriller",)
    assert measure("This user enjoyed dramas but disliked thrillers.", evidence, []).contradicts == ()
    assert measure("This user rated thrillers.", evidence, []).contradicts == ()


def test_a_text_is_generic_where_all_its_claims_hold_for_a_third_of_the_others(
    evidence: Evidence, others: list[Evidence]
) -> None:
    assert measure("This user enjoyed dramas.", evidence, others).generic
    assert measure("They watched a wide range of films.", evidence, others).generic
    assert measure("This user enjoyed dramas. They enjoyed comedies.", evidence, others).generic is False
    assert measure("This user enjoyed dramas such as Babe.", evidence, [others[-1]] * LEAST).generic is False
    assert measure("This user enjoyed dramas.", evidence, []).generic is None
    assert measure("This user enjoyed dramas.", evidence, others[: LEAST - 1]).generic is None  # a third of too few


@pytest.mark.parametrize("noun", ["recipes", "Recipes", "mixtapes"])
def test_what_items_are_called_tells_no_user_from_another(
    evidence: Evidence, others: list[Evidence], noun: str
) -> None:
    """`stats` is not told what texts call the items, and `review` may be told something else."""
    text = f"This user enjoyed drama {noun}. They rated many {noun}."
    assert measure(text, evidence, others).generic
    assert measure(f"This user enjoyed comedy {noun}.", evidence, others).generic is False
    subjects = [Subject(str(at), other) for at, other in enumerate(others)]
    assert count_general([(text, Subject("u", evidence))], subjects) == (2, 2)


def test_older_items_than_others_are_compared_whatever_the_items_are_called(march: Facts) -> None:
    told = Evidence(march, rates=freeze([facts(("9", 4), ("10", 4))] * LEAST))
    (clue,) = clues_of("They rated older recipes than most users.", told)
    assert (clue.measure, clue.stance) == (Measure.YEARS, -1)


def test_every_text_is_held_against_as_many_others(march: Facts) -> None:
    others = [(f"user-{number}", Evidence(march)) for number in range(OTHERS + 1)]
    assert {len(company_of(user, others)) for user in ("user-0", f"user-{OTHERS}", "nobody")} == {OTHERS}


def test_patterns_are_the_same_whatever_fills_them(evidence: Evidence) -> None:
    one = pattern_of("This user enjoyed dramas, comedies and thrillers, such as Babe.", evidence)
    assert one == pattern_of("This user enjoyed westerns and comedies, such as Duck Soup.", evidence)
    assert masked("Babe and Fargo", evidence) == "TITLE and TITLE"
