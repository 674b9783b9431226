"""Backfill of interests: writes summary and shift of every closed partition of a store that has none yet (LIBER, UIL).

Decides what is left to do, loads it in bounded chunks, keeps a window of partitions in flight, and commits rows as they
come; with the answer cache a killed run loses at most the calls in flight. Takes the LLM as a callable; opens no store
and no model.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine

from interest.errors import Denied, Refused, Unreadable
from interest.llm.cache import Answers, Usage, read_usage
from interest.llm.protocol import Complete
from interest.store.sql import upsert, writing
from interest.store.statements import write_statements
from interest.store.tables import interests
from interest.types import Interest, Outcome, Source
from interest.write.backlog import Plan, Work, chunks, count_open
from interest.write.cascade import MIN_KNOWN, GeneratedText
from interest.write.in_scene import told_scene
from interest.write.interruptible import run
from interest.write.unchanged import unchanged
from interest.write.writer import InterestWriter, interest_row, plain

MOST = 128  # partitions in flight at once: 4 full batches of the in-process model, a few MB
FIRST = 8  # in flight at the beginning, one more for each that is done: rows and a measure come soon on slow machines
READ = 32  # partitions read together
COMMIT_S = 0.2  # rows are committed as they come, at most so often
PROBE = 4  # partitions the estimate may ask for before the run; their answers are kept
CORRECT_AT, CORRECT_AFTER_S = 10, 30.0  # partitions, or seconds, after which the estimate is what was measured
TYPICAL_CALLS = 1.5  # calls a text, retries included, where nothing has been measured yet

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
    statements: int = 0  # about titles, from the model's own knowledge
    usage: dict[str, Usage] = field(default_factory=dict)
    seconds: float = 0.0
    unread: int = 0  # partitions left as they were, because the replies about them could not be read
    trouble: str = ""  # the last of these replies


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected cost of a run. `measured` is false where neither stored usage nor a probe stands behind it."""

    partitions: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    measured: bool


def estimate(
    engine: Engine,
    complete: Complete,
    model: str,
    plan: Plan,
    *,
    answers: Answers | None = None,
    begin: Callable[[int], AbstractContextManager[Callable[[int], None]]] = lambda _count: nullcontext(_unseen),
) -> Estimate:
    """Calls, tokens and seconds for what is left: from the counters of earlier runs, else by asking for a few
    partitions.

    The probe's answers go into the cache, so the run that follows does not ask for them again. With the `answers` that
    it is given too, the run counts them as the calls that they were. begin: called with the number of texts that the
    probe asks for; gives what is told as they come.
    """
    left = count_open(engine, plan, llm=True)
    with engine.connect() as connection:
        spent = read_usage(connection, model, plan.prompt_version)
        total = sum(spent.values(), Usage())
    if total.calls == 0 and left:
        answers = answers or Answers(engine, complete, model=model, prompt_version=plan.prompt_version)
        run(_probe(engine, answers, plan, begin))
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
    corrected: Callable[[Estimate], None] = lambda _estimate: None,
    replaced: Replaced | None = None,
    done: Learned | None = None,
    most: int | None = None,
    answers: Answers | None = None,
) -> Learned:
    """Write the interests of all closed partitions that lack one; without a `complete`, plain sentences from the
    counts.

    Args:
        complete: the LLM, or None for statistics alone. An LLM run replaces texts that a statistics run wrote.
        model: the model's id, stored with each interest and part of the answers' key.
        advance: called with the number of partitions newly stored.
        corrected: called once, with what the rest will take by the measure of the first ten partitions.
        replaced: called inside the writing transaction with the interests about to be written, so that what was made of
            texts they replace (vectors) can be removed with them.
        done: counts of the run, for a caller who wants them after an error too.
        most: end after so many partitions; None: when none is left.
        answers: those that `estimate` asked by, so that its calls are among the run's.

    Raises:
        InputError: an unknown prompt version or user.
        Unavailable, Denied: the LLM is not there, or refuses everything; what is done is stored, and another run goes
            on from there.
    """
    plan = plan or Plan()
    plan.prompt()  # an unknown version is told before anything is read
    done = Learned() if done is None else done
    start = time.monotonic()
    store = _Rows(engine, done, advance, replaced)
    if complete and answers is None:
        answers = Answers(engine, complete, model=model, prompt_version=plan.prompt_version)
    try:
        if answers is None:
            for chunk in chunks(engine, plan, MOST, llm=False, most=most):
                for work in chunk:
                    store.add(work, plain(work, plan, model))
                store.commit()
        else:
            left = count_open(engine, plan, llm=True)
            measure = _Measure(left if most is None else min(left, most), answers, corrected, start)
            run(_cascades(engine, plan, InterestWriter(answers.ask, plan, model), store, measure, most))
    finally:
        store.commit()
        if answers:
            answers.flush()
            done.usage = answers.spent
        done.seconds = time.monotonic() - start
    return done


class _Rows:
    """Finished interests on their way into the store."""

    def __init__(
        self, engine: Engine, done: Learned, advance: Callable[[int], None], replaced: Replaced | None
    ) -> None:
        self._engine, self._done, self._advance, self._replaced = engine, done, advance, replaced
        self._waiting: list[tuple[Work, Interest]] = []
        self._committed_at = float("-inf")

    def add(self, work: Work, interest: Interest) -> None:
        self._waiting.append((work, interest))

    def set_aside(self, error: Unreadable) -> None:
        """A partition whose replies could not be read stays as it is."""
        self._done.unread += 1
        self._done.trouble = str(error)

    @property
    def due_in(self) -> float | None:
        """Seconds until the next commit; None where nothing waits for it."""
        return max(self._committed_at + COMMIT_S - time.monotonic(), 0.0) if self._waiting else None

    def commit(self) -> None:
        """Store what is finished, in one transaction, but for whom was forgotten meanwhile."""
        if not (rows := list(self._waiting)):
            return
        with writing(self._engine) as connection:
            same = unchanged(connection, [work for work, _ in rows])
            kept = [interest for (_, interest), stays in zip(rows, same, strict=True) if stays]
            if self._replaced:
                self._replaced(connection, kept)
            upsert(connection, interests, [interest_row(interest) for interest in kept])
            write_statements(connection, kept)
        del self._waiting[: len(rows)]
        self._committed_at = time.monotonic()
        _count(self._done, kept)
        self._advance(len(rows))


class _Measure:
    """Corrects the estimate once, by what the first partitions took."""

    def __init__(self, left: int, answers: Answers, corrected: Callable[[Estimate], None], start: float) -> None:
        self._left, self._answers, self._corrected, self._start = left, answers, corrected, start
        self._said = False

    def take(self, done: int) -> None:
        """`done` partitions are written."""
        seconds = time.monotonic() - self._start
        left = self._left - done
        if self._said or left <= 0 or not done or (done < CORRECT_AT and seconds < CORRECT_AFTER_S):
            return
        self._said = True
        spent = sum(self._answers.spent.values(), Usage())
        each = left / done
        self._corrected(
            Estimate(
                partitions=left,
                calls=round(spent.calls * each),
                prompt_tokens=round(spent.prompt_tokens * each),
                completion_tokens=round(spent.completion_tokens * each),
                seconds=seconds * each,
                measured=True,
            )
        )


async def _cascades(
    engine: Engine, plan: Plan, writer: InterestWriter, store: _Rows, measure: _Measure, most: int | None
) -> None:
    """Cascades of up to MOST partitions at once. A shift waits for its two summaries; in chained mode a summary for
    the one before.
    """
    in_flight: dict[asyncio.Task[Interest], tuple[Work, asyncio.Task[GeneratedText]]] = {}
    newest: dict[str | None, tuple[Work, asyncio.Task[GeneratedText]]] = {}  # of one user, by scene
    finished = 0

    async def some_finish() -> None:
        """Wait for one, or for the time to commit those that are finished."""
        nonlocal finished
        ended, _ = await asyncio.wait(in_flight, timeout=store.due_in, return_when=asyncio.FIRST_COMPLETED)
        trouble: BaseException | None = None
        for task in ended:
            work, _summary = in_flight.pop(task)
            error = task.exception()
            if isinstance(error, Unreadable):
                store.set_aside(error)
            elif error is not None:
                trouble = trouble or error
            else:
                store.add(work, task.result())
                finished += 1
        if trouble is not None:
            raise trouble
        measure.take(finished)
        if store.due_in == 0.0:
            store.commit()

    try:
        for chunk in chunks(engine, plan, READ, llm=True, most=most):
            for work in chunk:
                while len(in_flight) >= min(MOST, FIRST + finished):
                    await some_finish()
                newest = {scene: one for scene, one in newest.items() if one[0].user_id == work.user_id}
                last = newest.get(work.partition.scene)
                before = last[1] if last is not None and work.content_before == last[0].content else None
                summary = asyncio.create_task(writer.summary(work, before))
                in_flight[asyncio.create_task(writer.interest(work, summary, before))] = work, summary
                newest[work.partition.scene] = work, summary
        while in_flight:
            await some_finish()
    finally:
        tasks = [*in_flight, *(summary for _, summary in in_flight.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task, (work, _) in in_flight.items():
            if not task.cancelled() and task.exception() is None:
                store.add(work, task.result())


def _unseen(_count: int) -> None:
    """Nobody is told of progress."""


async def _probe(
    engine: Engine,
    answers: Answers,
    plan: Plan,
    begin: Callable[[int], AbstractContextManager[Callable[[int], None]]],
) -> None:
    found = next(chunks(engine, plan, PROBE, llm=True), [])
    chunk = [work for work in found if work.evidence.facts.known >= MIN_KNOWN]
    prompt = plan.prompt()

    async def probe(work: Work, advance: Callable[[int], None]) -> None:
        facts = work.evidence.facts
        request = told_scene(prompt.summary(facts, "None" if plan.chained else None, 0, plan.style), facts)
        try:
            await answers.ask(request, user_id=work.user_id, kind="summary", forgets=work.forgets, ahead=True)
        except Refused as error:  # of one prompt: the run will make it that partition's outcome
            if isinstance(error, Denied) and not isinstance(error, Unreadable):
                raise
        advance(1)

    if not chunk:
        return
    try:
        with begin(len(chunk)) as advance:
            async with asyncio.TaskGroup() as group:
                for work in chunk:
                    group.create_task(probe(work, advance))
    finally:
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
        done.statements += len(interest.statements)
