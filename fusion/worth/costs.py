"""What the interest text has cost, from the store's own counters: calls, tokens, seconds and money."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, and_, func, select

from interest.review.texts import ASKED
from interest.store.sql import partition_size
from interest.store.tables import interests, partitions, usage


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """In one currency; 0 is free."""

    prompt: float = 0.0  # a million tokens
    completion: float = 0.0  # a million tokens
    hour: float = 0.0  # of the machine, while it asked


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """A thousand behaviours of partitions that an LLM was asked about, retries included."""

    calls: float
    tokens: float
    seconds: float
    money: float


def read_costs(connection: Connection, *, generation: int, prompt_version: str, prices: Prices) -> Costs | None:
    """None where the store has no counters, as where texts came from statistics, or no interests."""
    total = [func.sum(usage.c[name]) for name in ("calls", "prompt_tokens", "completion_tokens", "seconds")]
    row = connection.execute(select(*total).where(usage.c.prompt_version == prompt_version)).one()
    same = and_(*(interests.c[name] == partitions.c[name] for name in ("user_id", "generation", "index")))
    query = select(func.sum(partition_size())).join(interests, same)
    query = query.where(interests.c.generation == generation, interests.c.prompt_version == prompt_version)
    query = query.where(interests.c.summary_outcome.in_(ASKED))  # a template's texts cost nothing, and would dilute it
    behaviors = connection.execute(query).scalar() or 0
    if not row[0] or not behaviors:
        return None
    calls, prompt, completion, seconds = (float(value) for value in row)
    money = (prompt * prices.prompt + completion * prices.completion) / 1e6 + seconds / 3600 * prices.hour
    each = 1000 / float(behaviors)
    return Costs(calls=calls * each, tokens=(prompt + completion) * each, seconds=seconds * each, money=money * each)
