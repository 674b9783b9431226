"""plain-3: what comes back in a user's next partition is told, after an example that tells nothing of anybody."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest

from interest.check.category_claims import claims_in
from interest.check.evidence import Evidence
from interest.check.sentences import sentences
from interest.facts.base_rates import LEAST, BaseRates, freeze
from interest.facts.counts import Facts
from interest.facts.values import Kind
from interest.llm.cache import answer_key
from interest.llm.scripted import Scripted
from interest.types import Outcome, Source
from interest.write.backlog import Plan
from interest.write.cascade import GeneratedText, write_summary
from interest.write.place import place_of, plain_3, statement
from interest.write.prompts import Prompt, Style
from tests.support.films import facts

STYLE = Style(noun=("film", "films"))


@pytest.fixture
def rates() -> BaseRates:
    """Everybody rates dramas and action films of the 1990s low."""
    usual = facts(("2", 3), ("3", 3), ("6", 3), ("8", 3), ("7", 2), ("5", 2), ("9", 2), ("10", 2))
    return freeze([usual] * LEAST)


@pytest.fixture
def own() -> Facts:
    """Old war comedies, and thrillers valued low."""
    rated = [("4", 5)] * 6 + [("8", 4)] * 3 + [("9", 2)] * 4 + [("1", 4)] * 3
    return facts(*rated)


@pytest.fixture
def prompt(rates: BaseRates) -> Prompt:
    return Plan(prompt_version=f"plain-3@{rates.version}", rates=rates).prompt()


def answer(prompt: Prompt, told: Facts) -> str:
    """The statement, as a model that repeats it answers."""
    return (
        prompt.summary(told, None, 0, STYLE).messages[-1].content.rpartition("\n")[2].replace("The user", "This user")
    )


def summary(model: Scripted, told: Facts, prompt: Prompt) -> GeneratedText:
    return asyncio.run(write_summary(model, prompt, Evidence(told), STYLE))


def test_it_tells_counts_likes_what_is_more_and_lower_and_where_the_user_stands(prompt: Prompt, own: Facts) -> None:
    assert answer(prompt, own) == (
        "This user rated 6 comedies and 6 war films. They gave the highest ratings to comedies and war films. "
        "They rated more horror films than others. They rated action films lower than the rest. "
        "They gave higher ratings than most users. They rated older films than most users."
    )
    assert not any(title.name in answer(prompt, own) for title in own.titles)


def test_all_that_it_tells_passes_the_claim_check_and_is_kept(
    prompt: Prompt, rates: BaseRates, own: Facts, march: Facts, february: Facts
) -> None:
    for told in (own, march, february):
        said = answer(prompt, told)
        evidence = Evidence(told, rates=rates)
        claims = [claim for sentence, _ in sentences(said, evidence) for claim in claims_in(sentence, evidence)]
        assert [claim for claim in claims if not claim.supported] == []
        kept = summary(Scripted(said), told, prompt)
        assert (kept.text, kept.outcome) == (said, Outcome.OK)


def test_the_example_has_the_same_sentences_and_categories_of_nobody(
    prompt: Prompt, rates: BaseRates, own: Facts
) -> None:
    for kind in Kind:
        told = replace(own, kind=kind)
        place = place_of(told, rates)
        shown, real = statement(place.example, told, STYLE), statement(place, told, STYLE)
        assert [sentence.split()[:2] for sentence in shown] == [sentence.split()[:2] for sentence in real]
        assert shown[4:] == real[4:]
        low = " ".join(shown).lower()
        assert not any(category.name.lower() in low for category in told.categories)
    asked = prompt.summary(own, None, 0, STYLE).messages
    assert [message.role for message in asked] == ["system", "user", "assistant", "user"]
    taken = summary(Scripted(asked[2].content), own, prompt)
    assert (taken.source, taken.outcome) == (Source.STATISTICS, Outcome.REJECTED)


def test_an_answer_with_the_commonest_categories_alone_is_asked_for_again_with_less_told(
    prompt: Prompt, own: Facts
) -> None:
    kept = "This user gave the highest ratings to comedies and war films. They gave higher ratings than most users."
    model = Scripted("This user rated 6 comedies and 6 war films.", kept)
    assert summary(model, own, prompt).text == kept
    first, second = (request.messages[-1].content for request in model.seen)
    assert "6 comedies" in first
    assert "6 comedies" not in second
    assert model.seen[1].opening == "This user gave the highest ratings to"


def test_a_store_without_values_or_years_is_told_neither(rates: BaseRates, own: Facts) -> None:
    bare = replace(
        own, mean=None, valued=0, spread=0.0, titles=tuple(replace(title, year=None) for title in own.titles)
    )
    told = statement(place_of(bare, rates), bare, STYLE)
    assert not any("than most users" in sentence for sentence in told)


def test_the_answer_keys_are_pinned(rates: BaseRates, march: Facts, february: Facts) -> None:
    asked, digest = plain_3(rates), hashlib.sha256()
    for attempt in range(4):
        for request in (
            asked.summary(march, None, attempt, STYLE),
            asked.summary(february, "None", attempt, Style()),
            asked.shift(february, march, "a", "b", attempt, STYLE),
        ):
            digest.update(answer_key("m", "plain-3", request).encode())
    assert digest.hexdigest()[:16] == "4f8e74d0701348f6"
    assert asked.version == f"plain-3@{rates.version}"
