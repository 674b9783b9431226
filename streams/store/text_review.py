"""Reviews of the texts in a store: what `interestream review` and the line of `interestream stats` show."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, func, select

from interest.llm.cache import read_usage
from interest.review.report import OTHERS, Cost, measure_all, share_of
from interest.review.texts import ASKED, ReviewedText, read_others, read_texts
from interest.store.sql import partition_size
from interest.store.tables import interests, partitions

SAMPLED = 24  # summaries of the line in `stats`: a second or so


class ReviewLine(msgspec.Struct, frozen=True, kw_only=True):
    """What `stats` says of a prompt version's summaries, by a sample of those that the LLM wrote and that were kept."""

    sampled: int
    generic: float | None
    coverage: float | None
    contradictions: float | None


def read_cost(connection: Connection, prompt_version: str, model: str, generation: int) -> Cost | None:
    """What a version's texts by a model took, in all generations; None where nothing was asked."""
    spent = read_usage(connection, model, prompt_version)
    if not any(usage.calls for usage in spent.values()):
        return None
    read = connection.scalar(
        select(func.sum(partition_size()))
        .select_from(
            interests.join(
                partitions,
                (partitions.c.user_id == interests.c.user_id)
                & (partitions.c.generation == interests.c.generation)
                & (partitions.c.index == interests.c.index),
            )
        )
        .where(interests.c.prompt_version == prompt_version, interests.c.model == model)
        .where(interests.c.generation == generation, interests.c.summary_outcome.in_(ASKED))
    )
    calls = {kind: usage.calls for kind, usage in spent.items()}
    return Cost(
        calls=sum(calls.values()),
        tokens=sum(usage.prompt_tokens + usage.completion_tokens for usage in spent.values()),
        seconds=round(sum(usage.seconds for usage in spent.values()), 1),
        summary_calls_per_1000=round(1000 * calls.get("summary", 0) / read, 2) if read else None,
        shift_calls_per_1000=round(1000 * calls.get("shift", 0) / read, 2) if read else None,
    )


def read_review_line(connection: Connection, prompt_version: str, generation: int) -> ReviewLine | None:
    """The measures of a sample of the kept summaries by a prompt version; None where the LLM wrote none."""
    model = connection.scalar(
        select(interests.c.model)
        .where(interests.c.prompt_version == prompt_version, interests.c.generation == generation)
        .where(interests.c.summary_source == "llm")
        .group_by(interests.c.model)
        .order_by(func.count().desc(), interests.c.model)
        .limit(1)
    )
    if model is None:
        return None
    texts = read_texts(connection, prompt_version, model, generation, 2 * SAMPLED)
    others = read_others(connection, prompt_version, model, generation, OTHERS + 1)
    measured = measure_all(_spread(texts), others, lambda _count: None)
    return ReviewLine(
        sampled=len(measured),
        generic=share_of([each.generic for each in measured]),
        coverage=share_of([each.covers for each in measured]),
        contradictions=share_of([bool(each.contradicts) for each in measured]),
    )


def _spread(texts: Sequence[ReviewedText]) -> list[ReviewedText]:
    kept = [text for text in texts if text.kept]
    return kept[:: max(1, len(kept) // SAMPLED)][:SAMPLED]
