"""The cascade of one partition (LIBER, UIL): its summary, then its shift against the partition before.

Each is asked for, checked, tried again, and in the end kept, trimmed, or replaced by the plain sentence, with an
outcome that says which.

Pure orchestration: it asks through a callable, and knows no table and no model. `Unavailable` and `Denied` are passed
on (the run stops and can be resumed); any other `Refused` is an outcome.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from interest.check.evidence import Evidence
from interest.check.generality import contradictions, holds_for_many
from interest.check.sentences import Verdict, check, sentences
from interest.errors import Denied, Refused
from interest.facts.change import changed
from interest.facts.counts import Facts, Title
from interest.facts.mood import mood_sentence
from interest.llm.protocol import Reply, Request
from interest.types import ItemStatement, Outcome, Source
from interest.write.answer import bare, read_answer
from interest.write.in_scene import said_of_scene, told_scene
from interest.write.prompts import Prompt, Style
from interest.write.template import no_change_sentence, shift_sentence, summary_sentence

MIN_KNOWN = 5  # behaviours with a known category; below, a text would rest on next to nothing and no call is made
MAX_EVIDENCE = 12

Ask = Callable[[Request], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """One summary or shift, who wrote it, and how the LLM's work on it ended."""

    text: str
    source: Source
    outcome: Outcome
    evidence: tuple[int, ...] = ()
    claims: int = 0  # of the accepted attempt, before trimming
    supported: int = 0
    statements: tuple[ItemStatement, ...] = ()  # about titles, from the model's own knowledge: unchecked


async def write_summary(
    ask: Ask, prompt: Prompt, evidence: Evidence, style: Style, previous: str | None = None
) -> GeneratedText:
    """s_k: what the user likes in this partition. `previous` is s_(k-1) in chained mode, else None."""
    facts = evidence.facts
    stand_in = plain_summary(facts, style)
    if facts.known < MIN_KNOWN:
        return replace(stand_in, outcome=Outcome.SPARSE)
    return await _attempts(
        ask,
        lambda attempt: prompt.summary(facts, previous, attempt, style),
        replace(evidence, rates=prompt.rates),
        style,
        stand_in,
        min_claims=prompt.least(facts),
        strangers=[Evidence(other, rates=prompt.rates, nouns=style.noun) for other in prompt.strangers],
        statements=prompt.statements,
        repeated=prompt.repeated,
    )


async def write_shift(
    ask: Ask, prompt: Prompt, evidence: Evidence, style: Style, s_before: str, s_now: str
) -> GeneratedText:
    """d_k: how this partition differs from the one before, which `evidence.before` holds."""
    before, facts = evidence.before, evidence.facts
    if before is None:
        raise ValueError("a shift needs the partition before; a user's first partition has none")
    stand_in = plain_shift(before, facts, style)
    if min(facts.known, before.known) < MIN_KNOWN:
        return replace(stand_in, outcome=Outcome.SPARSE)
    if prompt.tested and not changed(before, facts):
        text = said_of_scene(no_change_sentence(before, facts, style.noun), facts)
        return replace(stand_in, text=text, outcome=Outcome.UNCHANGED)
    shift = await _attempts(
        ask,
        lambda attempt: prompt.shift(before, facts, s_before, s_now, attempt, style),
        evidence,
        style,
        stand_in,
        min_claims=1,
    )
    # no prompt tells the mood, whose bytes key the answers; it is a count, and the statistics sentence has it already
    mood = mood_sentence(before, facts) if shift.source == Source.LLM else ""
    return replace(shift, text=f"{shift.text} {mood}") if mood else shift


def plain_summary(facts: Facts, style: Style) -> GeneratedText:
    """The summary without an LLM."""
    best = facts.top(MAX_EVIDENCE // 2)
    evidence = tuple(title.seq for title in [title for title in best if facts.supports(title)] or best)
    text = said_of_scene(summary_sentence(facts, style.noun), facts)
    return GeneratedText(text, Source.STATISTICS, Outcome.STATISTICS, evidence)


def plain_shift(before: Facts | None, facts: Facts, style: Style) -> GeneratedText:
    """The shift without an LLM; empty for a user's first partition."""
    text = said_of_scene(shift_sentence(before, facts, style.noun), facts) if before else ""
    return GeneratedText(text, Source.STATISTICS, Outcome.STATISTICS)


async def _attempts(
    ask: Ask,
    request_of: Callable[[int], Request],
    evidence: Evidence,
    style: Style,
    stand_in: GeneratedText,
    *,
    min_claims: int,
    strangers: Sequence[Evidence] = (),
    statements: Callable[[str, Facts], tuple[ItemStatement, ...]] | None = None,
    repeated: bool = False,
) -> GeneratedText:
    """Ask until a text may be kept. An attempt cut by the token limit counts if at least one whole sentence stands; one
    that would do for a third of the `strangers`, or calls liked what lies below the user's mean, does not where there
    are any.
    """
    cut_short = generic = 0
    for attempt in range(style.attempts):
        request = told_scene(request_of(attempt), evidence.facts)
        try:
            reply = await ask(request)
        except Denied:  # it would refuse every text: that is for a person to mend, and no outcome of this one
            raise
        except Refused:
            return replace(stand_in, outcome=Outcome.REFUSED)
        text, named = _parsed(reply, request, evidence)
        asked = "\n".join(message.content for message in request.messages)
        if repeated:
            asked = asked.rpartition("\n")[0]
        verdict = check(text, evidence, asked, min_claims=min_claims)
        if verdict.text and strangers:
            said = [sentence for sentence, _ in sentences(verdict.text, evidence)]
            of_anyone = holds_for_many(said, strangers)
            generic += of_anyone
            if of_anyone or contradictions(verdict.kept, evidence.facts):
                continue
        if verdict.text:
            stated = statements(reply.text, evidence.facts) if statements else ()
            return replace(_accepted(verdict, named, evidence.facts), statements=stated)
        cut_short += reply.finish_reason != "stop"
    if generic:
        return replace(stand_in, outcome=Outcome.GENERIC)
    return replace(stand_in, outcome=Outcome.TRUNCATED if cut_short == style.attempts else Outcome.REJECTED)


def _parsed(reply: Reply, request: Request, evidence: Evidence) -> tuple[str, tuple[int, ...]]:
    """The text, and the evidence numbers that exist in the partition; without an answer in the reply, no text."""
    if request.schema is None:
        return bare(reply.text), ()
    text, numbers = read_answer(reply.text)
    known = {title.seq for title in evidence.facts.titles}
    return text, tuple(seq for seq in numbers if seq in known)


def _accepted(verdict: Verdict, named: tuple[int, ...], facts: Facts) -> GeneratedText:
    """The text, and what supports it: the behaviours behind its claims, then those the model named for them."""
    titles = {title.seq: title for title in facts.titles}
    claimed = [seq for claim in sorted(verdict.kept, key=lambda claim: claim.kind != "title") for seq in claim.seqs]
    likes = any(claim.liking for claim in verdict.kept)
    about = {name for claim in verdict.kept for name in claim.about}
    fitting = [
        seq for seq in named if set(titles[seq].categories) & about and (facts.supports(titles[seq]) or not likes)
    ]
    chosen = list(dict.fromkeys(claimed + fitting))[:MAX_EVIDENCE]
    return GeneratedText(
        text=verdict.text,
        source=Source.LLM,
        outcome=Outcome.TRIMMED if verdict.trimmed else Outcome.OK,
        evidence=tuple(sorted(chosen, key=lambda seq: _best_first(titles.get(seq), seq))),
        claims=len(verdict.claims),
        supported=sum(claim.supported for claim in verdict.claims),
    )


def _best_first(title: Title | None, seq: int) -> tuple[float, int]:
    return (float("inf") if title is None or title.value is None else -title.value, seq)
