"""Liking words need support by what the user usually gives, and the evidence is what supports them."""

from __future__ import annotations

import pytest

from interest.check.category_claims import claims_in
from interest.check.counts_behind import counts_behind
from interest.check.evidence import Evidence
from interest.check.generality import Subject, count_general
from interest.facts.counts import Facts, facts_of
from interest.facts.values import Usual
from interest.types import Behavior
from tests.support.films import CATALOGUE

HARSH = Usual.of(700, 1_270.0, 5.0)  # a mean of 1.8, as user 405 of ML-100K


def rated(*pairs: tuple[str, float], usual: Usual | None = None) -> Facts:
    rows = [
        (seq, Behavior(user_id="u", item_id=item, action="rate", at=float(seq), value=value))
        for seq, (item, value) in enumerate(pairs)
    ]
    return facts_of(rows, CATALOGUE, usual=usual)


def unsupported(sentence: str, facts: Facts, before: Facts | None = None) -> list[str]:
    return [claim.text for claim in claims_in(sentence, Evidence(facts, before)) if not claim.supported]


LOW = [("5", 1.0), ("4", 2.0), ("5", 2.0), ("4", 1.0), ("3", 1.0), ("8", 1.0)]  # comedies 1, 2, 2, 1
SENTENCES = [
    "This user enjoyed comedies.",
    "This user liked comedies.",
    "They prefer comedies.",
    "They were drawn to comedies.",
    "Their favourite genre is comedy.",
    "This user is a fan of comedies.",
    "Comedies were rated highly.",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_liking_needs_values_out_of_the_lower_half(sentence: str) -> None:
    assert unsupported(sentence, rated(*LOW, usual=HARSH))
    high = [("5", 5.0), ("4", 4.0), ("5", 4.0), ("4", 5.0), ("3", 1.0), ("8", 1.0)]
    assert unsupported(sentence, rated(*high, usual=HARSH)) == []


@pytest.mark.parametrize("sentence", SENTENCES)
def test_liking_needs_most_of_the_values_at_the_users_usual(sentence: str) -> None:
    values = [("5", 3.0), ("4", 3.0), ("5", 4.0), ("4", 3.0), ("3", 2.0), ("8", 2.0)]
    assert unsupported(sentence, rated(*values, usual=Usual.of(100, 380.0, 5.0)))  # 3 is below this user's usual
    assert unsupported(sentence, rated(*values, usual=Usual.of(100, 290.0, 5.0))) == []


def test_what_is_no_liking_needs_no_support() -> None:
    facts = rated(*LOW, usual=HARSH)
    assert unsupported("This user watched comedies and dramas.", facts) == []
    assert unsupported("This user rated 4 comedies.", facts) == []


def test_a_title_that_was_valued_low_is_not_liked() -> None:
    facts = rated(*LOW, usual=HARSH)
    assert unsupported("They liked Duck Soup.", facts) == ["Duck Soup"]
    better = rated(("4", 4.0), *LOW, usual=HARSH)
    assert unsupported("They liked Duck Soup.", better) == []


def test_a_shift_to_what_is_liked_needs_support_too() -> None:
    before = rated(("3", 3.0), ("8", 3.0), ("9", 3.0), ("10", 3.0), ("3", 4.0), ("8", 3.0))
    assert unsupported("This user now enjoys more comedies.", rated(*LOW, usual=HARSH), before) == ["comedies"]
    assert unsupported("This user now chooses more comedies.", rated(*LOW, usual=HARSH), before) == []


def test_the_evidence_is_what_supports_the_claim_best_first() -> None:
    values = [("5", 2.0), ("4", 4.0), ("5", 5.0), ("4", 4.0), ("9", 2.0), ("10", 1.0), ("10", 2.0)]
    facts = rated(*values, usual=Usual.of(9, 30.0, 5.0))
    (liked,) = claims_in("They enjoyed comedies.", Evidence(facts))
    assert liked.supported
    assert liked.seqs == (2, 1, 3)
    (disliked,) = claims_in("They did not like thrillers.", Evidence(facts))
    assert disliked.supported
    assert disliked.seqs == (5, 4, 6)


def test_the_mean_of_either_period_may_be_told_in_a_shift() -> None:
    before, now = rated(("5", 4.0), ("4", 3.0)), rated(("5", 2.0), ("4", 3.0))
    assert "3.5" not in unsupported("Comedies went from a mean of 3.5 to 2.5.", now, before)
    assert "4.5" in unsupported("Comedies went from a mean of 4.5 to 2.5.", now, before)


def test_sentences_that_hold_for_a_third_of_the_others_are_counted() -> None:
    comedies = rated(("5", 4.0), ("4", 4.0), ("5", 5.0), ("4", 4.0))
    thrillers = rated(("9", 4.0), ("10", 4.0), ("9", 4.0), ("10", 4.0))
    facts = [comedies, comedies, thrillers, thrillers, thrillers, thrillers]
    subjects = [Subject(f"u{number}", Evidence(one)) for number, one in enumerate(facts)]
    texts = [("This user watched comedies. They watched a wide range of films. They loved Babe.", subjects[0])]
    assert count_general(texts, subjects) == (3, 1)  # one other of five has comedies: less than a third
    thrilled = [("This user watched thrillers. They watched Speed. It never", subjects[2])]
    assert count_general(thrilled, subjects) == (2, 2)
    assert count_general(texts, subjects[:1]) == (0, 0)  # nobody to compare with


def test_the_counts_behind_a_text_are_those_of_what_it_says_is_liked() -> None:
    values = [("5", 5.0), ("4", 4.0), ("5", 2.0), ("9", 2.0), ("10", 1.0), ("10", 2.0), ("8", 4.0), ("6", 4.0)]
    evidence = Evidence(rated(*values, usual=Usual.of(9, 30.0, 5.0)))
    text = "This user enjoyed comedies and dramas. They did not like thrillers. They loved comedies."
    assert counts_behind(text, evidence) == ["comedies: 2 of 3 rated 4 or 5", "dramas: 3 of 4 rated 4 or 5"]
    assert counts_behind("This user watched dramas.", evidence) == []
