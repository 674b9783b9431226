"""Which behaviours a reader is shown for a sentence."""

from __future__ import annotations

from collections.abc import Collection

from interest.check.evidence import Evidence
from interest.check.sentence_support import sentence_support
from tests.support.films import facts

# seq 0 The Shining, 1 Fargo, 2 Taxi Driver, 3 Duck Soup, 4 Babe, 5 Speed
NOW = facts(("1", 5.0), ("2", 5.0), ("3", 2.0), ("4", 4.0), ("5", 1.0), ("9", 4.0))


def seqs(text: str, accepted: Collection[int] = ()) -> list[tuple[int, ...]]:
    return [one.seqs for one in sentence_support(text, Evidence(NOW), accepted)]


def test_a_category_rests_on_all_in_it_and_a_liking_on_those_valued_so() -> None:
    assert seqs("They rated thrillers.") == [(1, 2, 5)]
    assert seqs("They enjoyed thrillers.") == [(1, 5)]


def test_a_title_rests_on_its_own_behaviour_and_each_sentence_on_its_own() -> None:
    assert seqs("They enjoyed Duck Soup. They enjoyed Fargo. The weather was fine.") == [(3,), (1,), ()]


def test_what_the_check_refuses_today_rests_on_what_was_named_when_it_was_accepted() -> None:
    text = "They enjoyed comedies."  # valued 4 and 1: no liking
    assert seqs(text) == [()]
    assert seqs(text, accepted=[3, 5]) == [(3,)]


def test_a_shift_rests_on_the_partition_itself_never_on_the_one_before() -> None:
    before = facts(("7", 4.0), ("8", 4.0), ("6", 3.0), ("10", 4.0), first_seq=100)
    (found,) = sentence_support("They turned from dramas to thrillers.", Evidence(NOW, before))
    assert found.seqs
    assert set(found.seqs) <= set(range(6))
