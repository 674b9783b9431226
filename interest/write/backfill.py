"""Backfill of interests: writes summary and shift of every closed partition of a store that has none yet (LIBER, UIL).

Decides what is left to do, loads it in bounded chunks, runs the cascade, and writes each chunk in one transaction;
with the answer cache a killed run loses at most the calls in flight. Takes the LLM as a callable; opens no store and
no model.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from interest.llm.cache import Answers, Usage, read_usage
from interest.llm.protocol import Complete
from interest.store.sql import upsert, writing
from interest.store.tables import interests
from interest.types import Interest, Outcome, Source
from interest.write.backlog import Plan, Work, chunks, count_open
from interest.write.cascade import MIN_KNOWN, GeneratedText
from interest.write.writer import InterestWriter, interest_row, plain

CHUNK = 128  # partitions in hand at once: 4 full batches of the in-process model, a few MB
PROBE = 16  # partitions the estimate may ask for before the run; their answers are kept
TYPICAL_CALLS = 1.5  # calls a text, retries included, where nothing has been measured yet

T = TypeVar("T")
Replaced = Callable[[Connection, Sequence[Interest]], None]


@dataclass(slots=True)
class Learned:
    """Counts of one run: partitions, outcomes, claims, usage."""

    partitions: int = 0
    summaries: Counter[Outcome] = field(default_factory=Counter)
    shifts: Counter[Outcome] = field(default_factory=Counter)
    sources: Counter[Source] = field(default_factory=Counter)  # of the summaries
    claims: int = 0
    supported: int = 0
    usage: dict[str, Usage] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected cost of a run. `measured` is false where neither stored usage nor a probe stands behind it."""

    partitions: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    measured: bool


def estimate(engine: Engine, complete: Complete, model: str, plan: Plan) -> Estimate:
    """Calls, tokens and seconds for what is left: from the counters of earlier runs, else by asking for a few
    partitions.

    The probe's answers go into the cache, so the run that follows does not ask for them again.
    """
    left = count_open(engine, plan, llm=True)
    with engine.connect() as connection:
        spent = read_usage(connection, model, plan.prompt_version)
        total = sum(spent.values(), Usage())
    if total.calls == 0 and left:
        answers = Answers(engine, complete, model=model, prompt_version=plan.prompt_version)
        _run(_probe(engine, answers, plan))
        total = sum(answers.spent.values(), Usage())
    calls = round(2 * left * TYPICAL_CALLS)
    if total.calls == 0:
        return Estimate(left, calls, 0, 0, 0.0, measured=False)
    per_call = calls / total.calls
    return Estimate(
        partitions=left,
        calls=calls,
        prompt_tokens=round(total.prompt_tokens * per_call),
        completion_tokens=round(total.completion_tokens * per_call),
        seconds=total.seconds * per_call,
        measured=True,
    )


def learn(
    engine: Engine,
    complete: Complete | None,
    *,
    model: str = "statistics",
    plan: Plan | None = None,
    advance: Callable[[int], None] = lambda _count: None,
    replaced: Replaced | None = None,
) -> Learned:
    """Write the interests of all closed partitions that lack one; without a `complete`, plain sentences from the
    counts.

    Args:
        complete: the LLM, or None for statistics alone. An LLM run replaces texts that a statistics run wrote.
        model: the model's id, stored with each interest and part of the answers' key.
        advance: called with the number of partitions newly done.
        replaced: called inside the writing transaction with the interests about to be written, so that what was made of
            texts they replace (vectors) can be removed with them.

    Raises:
        InputError: an unknown prompt version or user.
        Unavailable: the LLM is not there; what is done is stored, and another run goes on from there.
    """
    plan = plan or Plan()
    plan.prompt()  # an unknown version is told before anything is read
    done = Learned()
    start = time.monotonic()
    answers = Answers(engine, complete, model=model, prompt_version=plan.prompt_version) if complete else None
    try:
        for chunk in chunks(engine, plan, CHUNK, llm=complete is not None):
            if answers is None:
                interests_of_chunk = [plain(work, plan, model) for work in chunk]
                advance(len(interests_of_chunk))
            else:
                interests_of_chunk = _run(_cascade(chunk, answers, plan, model, advance))
            with writing(engine) as connection:
                if replaced:
                    replaced(connection, interests_of_chunk)
                upsert(connection, interests, [interest_row(interest) for interest in interests_of_chunk])
            _count(done, interests_of_chunk)
    finally:
        if answers:
            answers.flush()
            done.usage = answers.spent
        done.seconds = time.monotonic() - start
    return done


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; of tasks that failed together, the first one's error is the caller's."""
    try:
        return asyncio.run(work)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def _cascade(
    chunk: Sequence[Work], answers: Answers, plan: Plan, model: str, advance: Callable[[int], None]
) -> list[Interest]:
    """All partitions of a chunk at once. A shift waits for its two summaries; in chained mode a summary for the one
    before.
    """
    summaries: dict[tuple[str, int], asyncio.Task[GeneratedText]] = {}
    texts = InterestWriter(answers.ask, plan, model)

    async def write(work: Work, before: asyncio.Task[GeneratedText] | None) -> Interest:
        interest = await texts.interest(work, summaries[work.user_id, work.partition.index], before)
        advance(1)
        return interest

    async with asyncio.TaskGroup() as group:
        tasks = []
        for work in chunk:
            before = summaries.get((work.user_id, work.partition.index - 1))
            summaries[work.user_id, work.partition.index] = group.create_task(texts.summary(work, before))
            tasks.append(group.create_task(write(work, before)))
    return [task.result() for task in tasks]


async def _probe(engine: Engine, answers: Answers, plan: Plan) -> None:
    chunk = next(chunks(engine, plan, PROBE, llm=True), [])
    prompt = plan.prompt()
    async with asyncio.TaskGroup() as group:
        for work in chunk:
            if work.evidence.facts.known >= MIN_KNOWN:
                request = prompt.summary(work.evidence.facts, "None" if plan.chained else None, 0, plan.style)
                group.create_task(answers.ask(request, user_id=work.user_id, kind="summary"))
    answers.flush()


def _count(done: Learned, found: Sequence[Interest]) -> None:
    done.partitions += len(found)
    for interest in found:
        done.summaries[interest.summary_outcome] += 1
        done.sources[interest.summary_source] += 1
        if interest.shift:
            done.shifts[interest.shift_outcome] += 1
        done.claims += interest.claims
        done.supported += interest.supported
