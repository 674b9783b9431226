"""Statistics of a store: behaviours, partitions, interests and their cost, vectors, representations, bytes."""

from __future__ import annotations

import msgspec
from sqlalchemy import Column, Connection, and_, case, func, not_, select
from sqlalchemy import text as sql

from fusion.adaptation.register import Adapted, read_adaptations
from fusion.tables import bank_vectors, banks, representations, vectors
from interest.review.texts import ASKED
from interest.store.sql import partition_size
from interest.store.tables import behaviors, interests, item_descriptions, item_statements, offers, partitions, usage
from streams.store.coverage import read_coverage
from streams.store.generality import read_generality
from streams.store.tables import TOPIC_SOURCE, offsets, policies
from streams.store.text_review import ReviewLine, read_review_line


class VersionStats(msgspec.Struct, frozen=True, kw_only=True):
    """The interests written by one version of the prompts."""

    prompt_version: str
    interests: int
    summaries: dict[str, dict[str, int]]  # by source, then by outcome
    shifts: dict[str, dict[str, int]]  # the same; a user's first partition has none
    claims: int  # checked in the LLM's accepted attempts
    supported: int
    supported_share: float | None
    with_statements: int  # interests beside which the LLM stated what it knows of items (knowledge-1)
    sentences_sampled: int  # of its summaries in the newest generation
    sentences_of_anyone: int  # of these, true of a third of other users' partitions too
    review: ReviewLine | None  # of a sample of the summaries that the LLM wrote and that were kept


class LlmCost(msgspec.Struct, frozen=True, kw_only=True):
    """What the LLM cost, over all versions of the prompts."""

    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    calls_per_1000_behaviors: float | None  # of the behaviours in partitions that the LLM was asked about


class BankStats(msgspec.Struct, frozen=True, kw_only=True):
    """A behaviour bank: what its vectors are made with, and what it has saved."""

    id: str
    llm: str
    cut: int
    pooling: str
    vectors: int
    bytes: int  # of the vectors
    asked: int  # texts looked for, by fillers
    hit_rate: float | None  # share of these that took no forward pass
    repeat_rate: float | None  # share of the behaviours whose text another has, when the bank was last filled whole


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    behaviors: int
    offers: int  # that nobody took: samples of training, in no history and no partition
    users: int
    accepted: int  # behaviours, over all logs and topics, forgotten users' included
    late: int
    duplicates: int
    rejected: int
    with_item: int | None  # behaviours whose item the catalogue has; none: there is no catalogue
    with_profile: int | None  # and whose user has a profile
    generation: int
    partitions: int
    open_caches: int  # users with behaviours in no closed partition
    open_behaviors: int
    versions: list[VersionStats]
    descriptions: dict[str, int]  # of items by the LLM (`interestream describe`), by outcome
    llm: LlmCost
    vectors: dict[str, int]  # by encoder
    representations: dict[str, int]  # by artifact
    banks: list[BankStats]
    adaptations: list[Adapted]  # language models that were adapted to this store
    store_bytes: int | None
    store_bytes_per_behavior: float | None


def read_stats(connection: Connection) -> Stats:
    """Count everything in the store. One pass over the behaviours and two look-ups for each: 1.5 s for a million."""
    generation = connection.scalar(select(func.max(policies.c.generation))) or 0
    count, users, open_caches = _per_user(connection, generation)
    closed = connection.execute(
        select(func.count(), func.sum(partition_size())).where(partitions.c.generation == generation)
    ).one()
    consumed = connection.execute(
        select(*(func.coalesce(func.sum(offsets.c[name]), 0) for name in _CONSUMED)).where(OF_BEHAVIORS),
    ).one()
    size = _store_bytes(connection)
    coverage = read_coverage(connection)
    return Stats(
        behaviors=count,
        offers=connection.execute(select(func.count()).select_from(offers)).scalar_one(),
        users=users,
        **dict(zip(_CONSUMED, map(int, consumed), strict=True)),
        with_item=coverage.with_item,
        with_profile=coverage.with_profile,
        generation=generation,
        partitions=closed[0],
        open_caches=open_caches,
        open_behaviors=count - int(closed[1] or 0),
        versions=_versions(connection, generation),
        descriptions=_by(connection, item_descriptions.c.outcome),
        llm=read_llm_cost(connection),
        vectors=_by(connection, vectors.c.encoder),
        representations=_by(connection, representations.c.artifact),
        banks=_banks(connection),
        adaptations=read_adaptations(connection),
        store_bytes=size,
        store_bytes_per_behavior=round(size / count, 1) if size and count else None,
    )


_CONSUMED = ("accepted", "late", "duplicates", "rejected")
# logs, and the topic of behaviours under any prefix: the topics of items and users have their offsets there too
OF_BEHAVIORS = not_(offsets.c.source.startswith(TOPIC_SOURCE)) | offsets.c.source.endswith("behaviors")


def _per_user(connection: Connection, generation: int) -> tuple[int, int, int]:
    """Behaviours, users, users with an open cache. Groups follow the key's order, so nothing is sorted or hashed."""
    each = select(behaviors.c.user_id, func.count().label("rows")).group_by(behaviors.c.user_id).subquery()
    closed = (
        select(partitions.c.user_id, func.sum(partition_size()).label("rows"))
        .where(partitions.c.generation == generation)
        .group_by(partitions.c.user_id)
        .subquery()
    )
    open_cache = case((each.c.rows > func.coalesce(closed.c.rows, 0), 1), else_=0)
    query = select(func.sum(each.c.rows), func.count(), func.sum(open_cache)).select_from(
        each.outerjoin(closed, each.c.user_id == closed.c.user_id)
    )
    rows, users, open_caches = connection.execute(query).one()
    return int(rows or 0), users, int(open_caches or 0)


def _versions(connection: Connection, generation: int) -> list[VersionStats]:
    version = interests.c.prompt_version
    totals = select(version, func.count(), func.sum(interests.c.claims), func.sum(interests.c.supported))
    summaries = _outcomes(connection, interests.c.summary_source, interests.c.summary_outcome, first=0)
    shifts = _outcomes(connection, interests.c.shift_source, interests.c.shift_outcome, first=1)
    counted = connection.execute(totals.group_by(version).order_by(version)).all()
    stated = _by(connection, item_statements.c.prompt_version)
    versions = []
    for name, count, claims, supported in counted:
        sampled, of_anyone = read_generality(connection, name, generation)
        versions.append(
            VersionStats(
                prompt_version=name,
                interests=count,
                summaries=summaries.get(name, {}),
                shifts=shifts.get(name, {}),
                claims=int(claims),
                supported=int(supported),
                supported_share=round(int(supported) / int(claims), 4) if claims else None,
                with_statements=stated.get(name, 0),
                sentences_sampled=sampled,
                sentences_of_anyone=of_anyone,
                review=read_review_line(connection, name, generation),
            )
        )
    return versions


def _outcomes(
    connection: Connection, source: Column[str], outcome: Column[str], first: int
) -> dict[str, dict[str, dict[str, int]]]:
    """How many texts of each source ended how, by prompt version; over partitions from index `first` on."""
    keys = (interests.c.prompt_version, source, outcome)
    query = select(*keys, func.count()).where(interests.c.index >= first).group_by(*keys).order_by(*keys)
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for version, written_by, ended, count in connection.execute(query):
        counts.setdefault(version, {}).setdefault(written_by, {})[ended] = count
    return counts


_COUNTERS = ("calls", "cached", "prompt_tokens", "completion_tokens")


def read_llm_cost(connection: Connection) -> LlmCost:
    """What the language model cost, over the whole store."""
    *counts, seconds = connection.execute(
        select(*(func.coalesce(func.sum(usage.c[name]), 0) for name in (*_COUNTERS, "seconds")))
    ).one()
    key = ("user_id", "generation", "index")
    read = connection.scalar(
        select(func.sum(partition_size()))
        .select_from(interests.join(partitions, and_(*(partitions.c[name] == interests.c[name] for name in key))))
        .where(interests.c.summary_outcome.in_(ASKED))
    )
    totals = dict(zip(_COUNTERS, map(int, counts), strict=True))
    return LlmCost(
        **totals,
        seconds=round(float(seconds), 3),
        calls_per_1000_behaviors=round(1000 * totals["calls"] / int(read), 2) if read else None,
    )


def _banks(connection: Connection) -> list[BankStats]:
    sizes_query = select(bank_vectors.c.bank, func.count()).where(bank_vectors.c.vector.is_not(None))
    sizes = {name: int(count) for name, count in connection.execute(sizes_query.group_by(bank_vectors.c.bank))}
    stats = []
    for row in connection.execute(select(banks).order_by(banks.c.id)).mappings():
        recipe = msgspec.json.decode(row["recipe"])
        size = sizes.get(row["id"], 0)
        stats.append(
            BankStats(
                id=row["id"],
                llm=recipe["llm"],
                cut=recipe["cut"],
                pooling=recipe["pooling"],
                vectors=size,
                bytes=size * row["width"] * 2,
                asked=row["asked"],
                hit_rate=_saved(row["computed"], row["asked"]),
                repeat_rate=_saved(row["texts"], row["behaviors"]),
            )
        )
    return stats


def _saved(paid: int, of: int) -> float | None:
    return round(max(1 - paid / of, 0.0), 4) if of else None


def _by(connection: Connection, column: Column[str]) -> dict[str, int]:
    rows = connection.execute(select(column, func.count()).group_by(column)).all()
    return {name: count for name, count in rows}  # noqa: C416  (to mypy a Row is not a tuple)


def _store_bytes(connection: Connection) -> int | None:
    """The size of the store: SQLite's pages in use (without the write-ahead log), PostgreSQL's whole database."""
    if connection.dialect.name == "sqlite":
        pages = "pragma_page_count, pragma_freelist_count, pragma_page_size"
        query = f"select (page_count - freelist_count) * page_size from {pages}"
    else:
        query = "select pg_database_size(current_database())"
    size: int | None = connection.scalar(sql(query))
    return size
