"""What sets a user apart is told, what would do for anybody is replaced, and no change beyond chance costs no call."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest

from interest.check.category_claims import claims_in
from interest.check.evidence import Evidence
from interest.check.generality import holds_for_many
from interest.errors import InputError
from interest.facts.base_rates import LEAST, BaseRates, freeze
from interest.facts.counts import Facts
from interest.llm.cache import answer_key
from interest.llm.scripted import Scripted
from interest.types import Outcome, Source
from interest.write.apart import APART, telling
from interest.write.backlog import Plan
from interest.write.cascade import GeneratedText, write_shift, write_summary
from interest.write.prompts import Prompt, Style
from tests.support.films import facts

STYLE = Style(noun=("film", "films"))
OWN = "This user gave the highest ratings to comedies. One of the favourites was Babe."
OF_ANYONE = "This user enjoyed dramas. They also rated action films."


@pytest.fixture
def rates() -> BaseRates:
    """Everybody likes dramas and rates action films too."""
    usual = facts(("2", 5), ("3", 5), ("6", 5), ("8", 5), ("7", 3), ("5", 3), ("9", 4), ("10", 4))
    return freeze([usual] * LEAST)


def prompt(rates: BaseRates, family: str = "plain-2") -> Prompt:
    return Plan(prompt_version=f"{family}@{rates.version}", rates=rates).prompt()


def summary(model: Scripted, evidence: Evidence, rates: BaseRates) -> GeneratedText:
    return asyncio.run(write_summary(model, prompt(rates), evidence, STYLE))


def test_what_is_valued_best_and_chosen_far_more_is_told_and_what_is_disliked_is_not(
    march: Facts, rates: BaseRates
) -> None:
    told = telling(march, rates)
    assert [category.name for category in told.best] == ["Comedy", "Drama"]
    assert [title.name for title in told.favourites[:1]] == ["Babe"]
    asked = prompt(rates).summary(march, None, 0, STYLE).messages[-1].content
    assert "enjoyed comedies and dramas" in asked
    assert "thriller" not in asked.lower()
    rich = prompt(rates, "json-2").summary(march, None, 0, STYLE).messages[-1].content
    assert "times the usual share" in rich
    assert "Valued worst: Thriller" in rich


def test_what_is_chosen_more_often_than_others_do_is_told_as_that_and_not_as_liked(rates: BaseRates) -> None:
    rated = facts(("2", 5), ("3", 5), ("6", 5), ("8", 4), ("7", 4), ("4", 1), ("4", 2), ("4", 1), ("2", 4), ("3", 5))
    told = telling(rated, rates)
    assert {category.name for category in told.more} == {"Comedy", "War"}
    asked = prompt(rates).summary(rated, None, 0, STYLE).messages[-1].content
    assert "They rated more war films and comedies than others." in asked
    assert not any(word in asked for word in ("enjoyed comedies", "enjoyed war", "ratings to comedies"))


def test_what_would_do_for_a_third_of_the_others_is_asked_for_again_then_replaced(
    evidence: Evidence, rates: BaseRates
) -> None:
    model = Scripted(OF_ANYONE, OWN)
    kept = summary(model, evidence, rates)
    assert (kept.text, kept.outcome, len(model.seen)) == (OWN, Outcome.OK, 2)
    model = Scripted(OF_ANYONE)
    replaced = summary(model, evidence, rates)
    assert (replaced.source, replaced.outcome, len(model.seen)) == (Source.STATISTICS, Outcome.GENERIC, STYLE.attempts)


def test_a_comparison_with_others_is_held_against_the_base_rates(evidence: Evidence, rates: BaseRates) -> None:
    for said, holds in (
        ("They enjoyed comedies much more often than others do.", True),
        ("They enjoyed more comedies than most users.", True),
        ("They rated more action films than other users.", False),
        ("They enjoyed dramas more often than others do.", False),
        ("They enjoyed dramas more than other films.", True),
    ):
        claims = claims_in(said, replace(evidence, rates=rates))
        assert all(claim.supported for claim in claims) == holds, (said, claims)
        assert all(claim.supported for claim in claims_in(said, evidence)) or "action" in said


def test_who_does_something_more_often_than_others_is_not_like_others_who_do_it_too(rates: BaseRates) -> None:
    """Everybody likes dramas; this user chose nothing else, and says so."""
    said = "This user enjoyed dramas more often than others do."
    own = Evidence(facts(*[("8", 5), ("8", 4), ("8", 5)] * 8))
    assert all(claim.supported for claim in claims_in(said, replace(own, rates=rates)))
    assert holds_for_many([said], [Evidence(other) for other in rates.strangers()])
    assert not holds_for_many([said], [Evidence(other, rates=rates) for other in rates.strangers()])
    kept = summary(Scripted(said), own, rates)
    assert (kept.text, kept.outcome) == (said, Outcome.OK)


def test_an_unpublished_or_foreign_version_of_the_rates_is_refused(rates: BaseRates) -> None:
    for version, held in (("plain-2", rates), ("plain-2@00000000", rates), (f"json-2@{rates.version}", None)):
        with pytest.raises(InputError, match="reads base rates"):
            Plan(prompt_version=version, rates=held).prompt()
    with pytest.raises(InputError, match=r"there are: json-1, json-2, knowledge-1, plain-1, plain-2"):
        Plan(prompt_version="plain-9").prompt()


def test_a_shift_is_asked_for_only_where_the_change_is_beyond_chance(
    march: Facts, february: Facts, rates: BaseRates
) -> None:
    model = Scripted("This user now chooses more dramas and fewer thrillers.")
    steady = Evidence(march, before=march)
    written = asyncio.run(write_shift(model, prompt(rates), steady, STYLE, "a", "b"))
    assert (written.outcome, written.source, model.seen) == (Outcome.UNCHANGED, Source.STATISTICS, [])
    assert "stayed much the same" in written.text
    asked = asyncio.run(write_shift(model, prompt(rates), Evidence(march, before=february), STYLE, "a", "b"))
    assert (asked.outcome, len(model.seen)) == (Outcome.OK, 1)


@pytest.mark.parametrize(("family", "keys"), [("json-2", "bb5d938a54d56371"), ("plain-2", "b779d0691bb00d10")])
def test_the_answer_keys_of_a_prompt_version_are_pinned(
    family: str, keys: str, march: Facts, february: Facts, rates: BaseRates
) -> None:
    asked, digest = prompt(rates, family), hashlib.sha256()
    for attempt in range(4):
        for request in (
            asked.summary(march, None, attempt, STYLE),
            asked.summary(february, "None", attempt, Style()),
            asked.shift(february, march, "a", "b", attempt, STYLE),
        ):
            digest.update(answer_key("m", family, request).encode())
    assert digest.hexdigest()[:16] == keys
    assert asked.version == f"{family}@{rates.version}"
    assert sorted(APART) == ["json-2", "plain-2"]
