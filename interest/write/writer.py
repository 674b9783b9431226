"""Writes the interest of one partition: summary and shift, from its facts to the row that is stored.

`interest.write.backfill` (a whole store) and the interest stage of the stream (what has just been closed) both write by
this, so the rows are the same whichever ran.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol

import msgspec
from sqlalchemy import RowMapping

from interest.llm.protocol import Reply, Request
from interest.store.tables import interests
from interest.types import Interest, Outcome, Partition, Source
from interest.write.backlog import Plan, Work
from interest.write.cascade import GeneratedText, plain_shift, plain_summary, write_shift, write_summary


class Ask(Protocol):
    """`interest.llm.cache.Answers.ask`."""

    async def __call__(self, request: Request, *, user_id: str, kind: str, forgets: int | None) -> Reply: ...


class InterestWriter:
    """Writes the summary and the shift of partitions by one plan.

    Whoever runs it knows which partitions are in flight: `before` is the summary of the user's partition before, where
    that is being written too; elsewhere the stored one counts.
    """

    def __init__(self, ask: Ask, plan: Plan, model: str) -> None:
        self._ask, self._plan, self._model = ask, plan, model
        self._prompt = plan.prompt()

    async def summary(self, work: Work, before: asyncio.Future[GeneratedText] | None = None) -> GeneratedText:
        """s_k. Waits for s_(k-1) in chained mode only."""
        return await write_summary(
            lambda request: self._ask(request, user_id=work.user_id, kind="summary", forgets=work.forgets),
            self._prompt,
            replace(work.evidence, before=None),
            self._plan.style,
            await _text(work, before) if self._plan.chained else None,
        )

    async def interest(
        self, work: Work, summary: asyncio.Future[GeneratedText], before: asyncio.Future[GeneratedText] | None = None
    ) -> Interest:
        """The stored row: s_k, and d_k, which is asked for once s_(k-1) and s_k are there."""
        s_now = await asyncio.shield(summary)
        d_now = plain_shift(None, work.evidence.facts, self._plan.style)
        if work.evidence.before is not None:
            d_now = await write_shift(
                lambda request: self._ask(request, user_id=work.user_id, kind="shift", forgets=work.forgets),
                self._prompt,
                work.evidence,
                self._plan.style,
                await _text(work, before),
                s_now.text,
            )
        return interest_of(work.partition, s_now, d_now, self._plan, self._model)


async def _text(work: Work, before: asyncio.Future[GeneratedText] | None) -> str:
    """s_(k-1). Shielded: who gives this partition up does not take the one before with it."""
    return (await asyncio.shield(before)).text if before is not None else work.previous or "None"


def plain(work: Work, plan: Plan, model: str) -> Interest:
    """The interest written from the counts alone, without an LLM."""
    facts = work.evidence.facts
    return interest_of(
        work.partition,
        plain_summary(facts, plan.style),
        plain_shift(work.evidence.before, facts, plan.style),
        plan,
        model,
    )


def interest_of(partition: Partition, summary: GeneratedText, shift: GeneratedText, plan: Plan, model: str) -> Interest:
    return Interest(
        user_id=partition.user_id,
        index=partition.index,
        generation=partition.generation,
        prompt_version=plan.prompt_version,
        summary=summary.text,
        summary_source=summary.source,
        summary_outcome=summary.outcome,
        shift=shift.text,
        shift_source=shift.source,
        shift_outcome=shift.outcome,
        evidence=summary.evidence,
        claims=summary.claims + shift.claims,
        supported=summary.supported + shift.supported,
        model=model,
        at=partition.closed_at,
        statements=summary.statements,
    )


def interest_row(interest: Interest) -> dict[str, object]:
    """The columns of `interests`."""
    row = {name: value for name, value in msgspec.structs.asdict(interest).items() if name in interests.c}
    return row | {"evidence": msgspec.json.encode(interest.evidence).decode()}


def interest_of_row(row: RowMapping) -> Interest:
    """The interest of a row of `interests`, without what the model stated about titles."""
    values = {name: row[name] for name in Interest.__struct_fields__ if name in interests.c}
    values["evidence"] = tuple(msgspec.json.decode(row["evidence"], type=list[int]))
    for name in ("summary_source", "shift_source"):
        values[name] = Source(row[name])
    for name in ("summary_outcome", "shift_outcome"):
        values[name] = Outcome(row[name])
    return Interest(**values)
