"""The cascade with a scripted model: every outcome, and what the model was asked."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from interest.check.evidence import Evidence
from interest.errors import Refused, Unavailable
from interest.facts.counts import Facts
from interest.llm.scripted import Scripted, reply
from interest.types import Outcome, Source
from interest.write.cascade import GeneratedText, write_shift, write_summary
from interest.write.prompts import PROMPTS, Style
from tests.support.films import facts

STYLE = Style(noun=("film", "films"))
GOOD = "This user enjoyed dramas and comedies."
FALSE = "This user enjoyed westerns on Netflix."


def summary(
    model: Scripted, evidence: Evidence, version: str = "plain-1", previous: str | None = None
) -> GeneratedText:
    return asyncio.run(write_summary(model, PROMPTS[version], evidence, STYLE, previous))


def test_a_good_first_answer_is_taken(evidence: Evidence) -> None:
    model = Scripted(GOOD)
    written = summary(model, evidence)
    assert (written.text, written.source, written.outcome) == (GOOD, Source.LLM, Outcome.OK)
    assert (written.claims, written.supported, len(model.seen)) == (2, 2, 1)
    assert set(written.evidence) <= set(range(50, 61))
    assert written.evidence


def test_a_false_answer_is_asked_again_first_greedy_then_sampled(evidence: Evidence) -> None:
    model = Scripted(FALSE, FALSE, FALSE, GOOD)
    written = summary(model, evidence)
    assert (written.text, written.outcome) == (GOOD, Outcome.OK)
    assert [request.temperature > 0 for request in model.seen] == [False, False, True, True]
    assert len({msgspec.json.encode(request) for request in model.seen}) == 4


def test_what_is_partly_true_is_trimmed(evidence: Evidence) -> None:
    written = summary(Scripted(f"{GOOD} They also loved westerns."), evidence)
    assert (written.text, written.outcome) == (GOOD, Outcome.TRIMMED)
    assert (written.claims, written.supported) == (3, 2)


def test_when_no_attempt_passes_a_plain_sentence_stands_in_and_says_so(evidence: Evidence) -> None:
    model = Scripted(FALSE)
    written = summary(model, evidence)
    assert (written.source, written.outcome) == (Source.STATISTICS, Outcome.REJECTED)
    assert written.text.startswith("This user rated 11 films")
    assert len(model.seen) == STYLE.attempts


def test_answers_that_all_stop_at_the_token_limit_are_truncated(evidence: Evidence) -> None:
    written = summary(Scripted(reply("This user enjoyed dramas and", "length")), evidence)
    assert (written.source, written.outcome) == (Source.STATISTICS, Outcome.TRUNCATED)
    whole_sentence = summary(Scripted(reply(f"{GOOD} They also", "length")), evidence)
    assert (whole_sentence.text, whole_sentence.outcome) == (GOOD, Outcome.TRIMMED)


def test_a_refusal_is_an_outcome_and_is_not_asked_again(evidence: Evidence) -> None:
    model = Scripted(Refused("prompt too long"))
    written = summary(model, evidence)
    assert (written.source, written.outcome, len(model.seen)) == (Source.STATISTICS, Outcome.REFUSED, 1)


def test_a_model_that_is_not_there_stops_the_run(evidence: Evidence) -> None:
    with pytest.raises(Unavailable):
        summary(Scripted(Unavailable("connection refused")), evidence)


def test_too_little_evidence_means_no_call() -> None:
    model = Scripted(GOOD)
    written = summary(model, Evidence(facts(("2", 3), ("3", 4))))
    assert (written.source, written.outcome, model.seen) == (Source.STATISTICS, Outcome.SPARSE, [])


def test_a_schema_answer_brings_its_evidence_and_only_numbers_that_exist(evidence: Evidence) -> None:
    answer = msgspec.json.encode({"text": GOOD, "evidence": [52, 53, 999]}).decode()
    model = Scripted("not JSON", answer)
    written = summary(model, evidence, "json-1")
    assert (written.text, written.outcome, len(model.seen)) == (GOOD, Outcome.OK, 2)
    assert {52, 53} <= set(written.evidence)
    assert 999 not in written.evidence
    assert model.seen[0].schema is not None


def test_a_shift_is_held_against_both_partitions(shift_evidence: Evidence) -> None:
    model = Scripted("This user now chooses more thrillers.", "This user now chooses more dramas and fewer thrillers.")
    written = asyncio.run(write_shift(model, PROMPTS["plain-1"], shift_evidence, STYLE, "before", "now"))
    assert (written.text, written.outcome) == ("This user now chooses more dramas and fewer thrillers.", Outcome.OK)
    with pytest.raises(ValueError, match="partition before"):
        asyncio.run(write_shift(model, PROMPTS["plain-1"], Evidence(shift_evidence.facts), STYLE, "before", "now"))


@pytest.mark.parametrize("version", sorted(PROMPTS))
def test_prompts_are_built_from_the_partition_and_short(version: str, march: Facts, february: Facts) -> None:
    prompt = PROMPTS[version]
    first = prompt.summary(march, None, 0, STYLE)
    shift = prompt.shift(february, march, "They liked thrillers.", "They like dramas.", 0, STYLE)
    asked = first.messages[-1].content
    assert "drama" in asked.lower()
    assert "Babe" in asked
    assert len(asked.split()) < 200
    assert "western" not in asked.lower()
    assert "thriller" in shift.messages[-1].content.lower()
    chained = prompt.summary(march, "They liked thrillers.", 0, STYLE)
    assert "They liked thrillers." in chained.messages[-1].content


def test_a_change_of_mood_is_told_after_the_llms_shift(shift_evidence: Evidence) -> None:
    sour = [("2", 2), ("3", 1), ("5", 3), ("4", 2), ("6", 2), ("8", 2), ("9", 1), ("10", 1), ("7", 2), ("4", 3)]
    now = facts(*sour, first_seq=50)
    evidence = Evidence(now, before=shift_evidence.before)
    model = Scripted("This user now chooses more dramas.")
    written = asyncio.run(write_shift(model, PROMPTS["plain-1"], evidence, STYLE, "before", "now"))
    assert (written.source, written.outcome) == (Source.LLM, Outcome.OK)
    assert written.text == (
        "This user now chooses more dramas. They rated lower than in the period before (mean 3.9 to 1.9)."
    )


@pytest.mark.parametrize(
    "told",
    [
        '```json\n{"text": "%s", "evidence": ["52", 53.0, "[60]"]}\n```',
        'Here it is:\n```\n{"evidence": "52, 53", "text": "%s"}\n``` I hope it helps.',
        '{"text": "%s", "evidence": [52], "confidence": 0.9, "notes": {"a": [1]}}',
        '[{"Text": "%s", "evidence": null}]',
        '{"text": ["%s"], "evidence": [{"seq": 52}]}',
        '{"reasoning": "They like {films}"} {"text": "%s"}',
    ],
)
def test_an_answer_is_read_in_whatever_wrapping_it_comes(told: str, evidence: Evidence) -> None:
    written = summary(Scripted(told % GOOD), evidence, "json-1")
    assert (written.text, written.outcome) == (GOOD, Outcome.OK)
    assert {52, 53} <= set(written.evidence)


def test_the_evidence_stored_is_the_best_valued_that_supports_the_text(evidence: Evidence) -> None:
    answer = msgspec.json.encode({"text": GOOD, "evidence": [51, 50, 59, 54]}).decode()  # 51 and 50: valued low
    written = summary(Scripted(answer), evidence, "json-1")
    values = [title.value for seq in written.evidence for title in evidence.facts.titles if title.seq == seq]
    assert values == sorted(values, reverse=True)  # type: ignore[type-var]
    assert not {50, 51} & set(written.evidence)
    assert {52, 53, 54} <= set(written.evidence)
