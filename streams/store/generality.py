"""How many sentences of the stored summaries would do for anyone: sampled, so that it costs the same in any store."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection, and_, func, select

from interest.check.generality import Subject, count_general
from interest.store.sql import partition_of
from interest.store.tables import interests, partitions
from interest.write.backlog import Plan, load, read_categories
from interest.write.rates import rates_of

SAMPLED = 40  # summaries, each held against the partitions of the others: a second or so


def read_generality(connection: Connection, prompt_version: str, generation: int) -> tuple[int, int]:
    """The sentences of a sample of the summaries by a prompt version, and how many of them would pass the claim check
    for a third of the sampled partitions of other users.

    The sample is every n-th summary in the order of user and partition: the same store gives the same numbers.
    """
    wanted = and_(interests.c.prompt_version == prompt_version, interests.c.generation == generation)
    count = connection.scalar(select(func.count()).select_from(interests).where(wanted)) or 0
    step = max(1, count // SAMPLED)
    keys = (interests.c.user_id, interests.c.index)
    numbered = select(*keys, interests.c.summary, func.row_number().over(order_by=keys).label("number")).where(wanted)
    rows = numbered.subquery()
    query = (
        select(rows.c.summary, partitions)
        .join(
            partitions,
            and_(
                partitions.c.user_id == rows.c.user_id,
                partitions.c.index == rows.c.index,
                partitions.c.generation == generation,
            ),
        )
        .where(rows.c.number % step == 0)
        .order_by(rows.c.number)
        .limit(SAMPLED)
    )
    sampled = [(row["summary"], partition_of(row)) for row in connection.execute(query).mappings()]
    if not sampled:
        return 0, 0
    plan = Plan(prompt_version=prompt_version)
    works = load(connection, plan, [partition for _, partition in sampled], read_categories(connection))
    rates = rates_of(connection, prompt_version)
    subjects = [Subject(work.user_id, replace(work.evidence, before=None, rates=rates)) for work in works]
    return count_general([(text, subject) for (text, _), subject in zip(sampled, subjects, strict=True)], subjects)
