"""Where a user stands among others: by values of the same kind, and by how old what they chose is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interest.facts.among_others import Measure, far_from_most, place
from interest.facts.base_rates import LEAST, freeze
from interest.facts.counts import Facts
from interest.facts.values import Kind
from tests.support.films import facts

STRICT = facts(("2", 2), ("6", 2), ("8", 2), ("9", 2), ("10", 2))  # of the 1990s
USUAL = facts(("2", 3), ("6", 3), ("8", 3), ("9", 3), ("10", 3))
OLD = facts(("4", 4), ("4", 4), ("3", 4), ("4", 4), ("3", 4))  # of the 1930s and 1970s
RATES = freeze([STRICT, USUAL, OLD] * LEAST)


@pytest.mark.parametrize(
    ("own", "measure", "at", "far"),
    [
        (STRICT, Measure.VALUES, 1 / 6, -1),  # a third are as strict, and count as halves
        (USUAL, Measure.VALUES, 1 / 2, 0),
        (OLD, Measure.VALUES, 5 / 6, 1),
        (OLD, Measure.YEARS, 1 / 6, -1),
        (STRICT, Measure.YEARS, 2 / 3, 1),
    ],
)
def test_the_place_is_the_share_of_others_below(own: Facts, measure: Measure, at: float, far: int) -> None:
    assert place(measure, own, RATES) == pytest.approx(at)
    assert far_from_most(measure, own, RATES) == far


def test_too_few_values_or_years_other_kinds_and_few_others_have_no_place() -> None:
    few = facts(("2", 5), ("6", 5), ("8", 5), ("9", 5))
    played = replace(OLD, kind=Kind.SECONDS)
    alone = freeze([OLD] * (LEAST - 1) + [replace(few, verb="rated")] * LEAST)
    for own, rates in ((few, RATES), (played, RATES), (OLD, alone)):
        assert place(Measure.VALUES, own, rates) is None
        assert far_from_most(Measure.VALUES, own, rates) == 0
    assert place(Measure.YEARS, few, RATES) is None
    assert place(Measure.YEARS, played, RATES) == pytest.approx(1 / 6)
