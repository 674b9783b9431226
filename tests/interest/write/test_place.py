"""plain-3: what comes back in a user's next partition is told, after an example that tells nothing of anybody."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interest.check.category_claims import claims_in
from interest.check.evidence import Evidence
from interest.check.generality import holds_for_many
from interest.check.sentences import sentences
from interest.facts.base_rates import LEAST, BaseRates, freeze
from interest.facts.counts import Facts, facts_of
from interest.facts.values import Kind, Usual, kind_of
from interest.llm.cache import answer_key
from interest.llm.scripted import Scripted
from interest.types import Behavior, Outcome, Source
from interest.write.backlog import Plan
from interest.write.cascade import GeneratedText, write_summary
from interest.write.place import place_of, plain_3, statement
from interest.write.prompts import Prompt, Style
from tests.support.films import CATALOGUE, facts

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
        shown, real = statement(place.example(told), told, STYLE), statement(place, told, STYLE)
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


@pytest.mark.parametrize("action", ["play", "purchase", "click", "save", "listen", "subscribe", "like"])
@pytest.mark.parametrize("valued", [True, False])
@pytest.mark.parametrize("noun", [("song", "songs"), ("board game", "board games")])
def test_what_it_tells_of_any_log_passes_the_claim_check(
    action: str, valued: bool, noun: tuple[str, str], own: Facts
) -> None:
    """Songs with play times, prices, or no values: what a model repeats word for word is kept whole."""
    style = Style(noun=noun)
    verb = facts_of([(0, Behavior(user_id="u", item_id="2", action=action, at=0.0))], {}).verb
    kind = kind_of(action, [300.0], 400.0) if valued else Kind.NUMBER

    def of_kind(told: Facts) -> Facts:
        bare = {} if valued else {"mean": None, "valued": 0, "spread": 0.0, "usual": Usual()}
        titles = tuple(replace(title, value=title.value if valued else None) for title in told.titles)
        groups = tuple(
            one if valued else replace(one, mean=None, valued=0, supporting=(), lift=0) for one in told.categories
        )
        return replace(told, verb=verb, kind=kind, titles=titles, categories=groups, **bare)

    usual = facts(("2", 3), ("3", 3), ("6", 3), ("8", 3), ("7", 2), ("5", 2), ("9", 2), ("10", 2))
    rates = freeze([of_kind(usual)] * LEAST)
    prompt, told = plain_3(rates), of_kind(own)
    asked = prompt.summary(told, None, 0, style).messages[-1].content
    said = asked.rpartition("\n")[2].replace("The user", "This user")
    evidence = Evidence(told, nouns=style.noun)
    kept = asyncio.run(write_summary(Scripted(said), prompt, evidence, style))
    assert (kept.text, kept.outcome) == (said, Outcome.OK)


def test_the_attempts_tell_less_and_less_and_a_word_of_the_catalogue_is_in_no_example(
    prompt: Prompt, own: Facts
) -> None:
    asked = [prompt.summary(own, None, attempt, STYLE).messages[-1].content for attempt in range(3)]
    assert len(asked[0]) > len(asked[1]) > len(asked[2])
    few = replace(own, categories=tuple(replace(one, lift=0) for one in own.categories[:2]), valued=0, titles=())
    first, again = (prompt.summary(few, None, attempt, STYLE) for attempt in (1, 2))
    assert first.messages == again.messages
    assert (first.temperature, again.temperature > 0) == (0.0, True)  # never the same greedy call twice
    sailing = replace(own, names=frozenset({"a chess master goes sailing"}))
    shown = prompt.summary(sailing, None, 0, STYLE).messages[2].content
    assert "chess" not in shown
    assert "sailing" not in shown


def test_a_third_of_others_may_share_all_but_the_counts(prompt: Prompt, rates: BaseRates) -> None:
    """Exact counts tell nobody apart: a text that would do for others but for these is asked for again."""
    usual = rates.strangers()[0]
    told = replace(usual, titles=tuple(replace(title, name=f"Film {at}") for at, title in enumerate(usual.titles)))
    for said in ("They rated 7 dramas.", "They rated dramas (7).", "They rated 8 films, 7 of them dramas."):
        assert holds_for_many([said], [Evidence(other) for other in rates.strangers()]), said
    said = "This user rated 7 dramas and 4 thrillers. They enjoyed dramas."
    counted = replace(
        told, categories=tuple(replace(one, count=7 if one.name == "Drama" else one.count) for one in told.categories)
    )
    kept = summary(Scripted(said), counted, replace(prompt, least=lambda _facts: 2))
    assert (kept.source, kept.outcome) == (Source.STATISTICS, Outcome.GENERIC)


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
    assert digest.hexdigest()[:16] == "a2b8018b0cacb8ed"
    assert asked.version == f"plain-3@{rates.version}"


@given(st.lists(st.tuples(st.sampled_from(sorted(CATALOGUE)), st.integers(1, 5)), min_size=6, max_size=40))
@settings(max_examples=60, deadline=None)
def test_what_a_prompt_tells_of_the_highest_ratings_is_supported(rated: list[tuple[str, int]]) -> None:
    own = facts(*rated)
    rates = freeze([facts(("2", 3), ("9", 3), ("4", 3))] * LEAST)
    place = place_of(own, rates)
    told = next((said for said in statement(place, own, STYLE) if "the highest ratings" in said), "")
    assert [claim for claim in claims_in(told, Evidence(own, rates=rates)) if not claim.supported] == []
