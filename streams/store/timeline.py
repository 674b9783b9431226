"""One user's history as partitions: when, what the interest texts say, and the behaviours behind them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import msgspec
from sqlalchemy import Connection, RowMapping, func, select

from interest.store.sql import behaviors_between, partitions_of, read_items, read_users
from interest.store.tables import behaviors, interests, partitions
from interest.types import Item, Partition
from streams.store.users import check_user


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One behaviour behind a summary."""

    seq: int
    item_id: str
    title: str  # the item id where the catalogue has no title
    action: str
    value: float | None
    at: str


class WrittenText(msgspec.Struct, frozen=True, kw_only=True):
    """A summary or a shift, and who wrote it."""

    text: str
    source: str  # llm, statistics
    outcome: str


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """One closed partition. `summary` is None where no interest has been learned, `shift` also in the first one."""

    index: int
    opened_at: str
    closed_at: str
    reason: str
    behaviors: int
    summary: WrittenText | None
    shift: WrittenText | None
    evidence: list[Evidence]
    claims: int
    supported: int
    model: str | None


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    """The behaviours after the newest closed partition: no LLM has read them yet."""

    behaviors: int
    since: str | None
    until: str | None


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    user_id: str
    profile: dict[str, str]
    generation: int
    prompt_version: str | None
    other_versions: list[str]
    partitions: list[Period]
    open: Cache


def read_timeline(connection: Connection, user_id: str, prompt_version: str | None = None) -> Timeline:
    """One user's timeline, in the newest generation.

    `prompt_version`: whose interests; default: the version with the most of them (of equals, the last by name).
    Raises InputError for a user no table knows.
    """
    check_user(connection, user_id)
    newest = select(func.max(partitions.c.generation)).where(partitions.c.user_id == user_id)
    generation = connection.scalar(newest) or 0
    of_user = (interests.c.user_id == user_id, interests.c.generation == generation)
    rows = list(connection.execute(select(interests).where(*of_user)).mappings())
    counts = Counter(row["prompt_version"] for row in rows)
    version = prompt_version or max(counts, key=lambda name: (counts[name], name), default=None)
    texts = {row["index"]: row for row in rows if row["prompt_version"] == version}
    closed = partitions_of(connection, user_id, generation)
    profile = read_users(connection, [user_id]).get(user_id)
    return Timeline(
        user_id=user_id,
        profile=profile.attributes if profile else {},
        generation=generation,
        prompt_version=version,
        other_versions=sorted(set(counts) - {version}),
        partitions=[_period(connection, partition, texts.get(partition.index)) for partition in closed],
        open=_open_cache(connection, user_id, closed[-1].last_seq if closed else -1),
    )


def _period(connection: Connection, partition: Partition, row: RowMapping | None) -> Period:
    shift = WrittenText(text=row["shift"], source=row["shift_source"], outcome=row["shift_outcome"]) if row else None
    summary = (
        WrittenText(text=row["summary"], source=row["summary_source"], outcome=row["summary_outcome"]) if row else None
    )
    return Period(
        index=partition.index,
        opened_at=format_time(partition.opened_at),
        closed_at=format_time(partition.closed_at),
        reason=partition.reason.value,
        behaviors=partition.size,
        summary=summary,
        shift=shift if shift and shift.text else None,
        evidence=_evidence(connection, partition, msgspec.json.decode(row["evidence"], type=list[int])) if row else [],
        claims=row["claims"] if row else 0,
        supported=row["supported"] if row else 0,
        model=row["model"] if row else None,
    )


def _evidence(connection: Connection, partition: Partition, seqs: list[int]) -> list[Evidence]:
    inside = dict(behaviors_between(connection, partition.user_id, partition.first_seq, partition.last_seq))
    chosen = [(seq, inside[seq]) for seq in seqs if seq in inside]
    items = read_items(connection, {behavior.item_id for _, behavior in chosen})
    return [
        Evidence(
            seq=seq,
            item_id=behavior.item_id,
            title=items.get(behavior.item_id, Item(item_id=behavior.item_id)).title or behavior.item_id,
            action=behavior.action,
            value=behavior.value,
            at=format_time(behavior.at),
        )
        for seq, behavior in chosen
    ]


def _open_cache(connection: Connection, user_id: str, last_seq: int) -> Cache:
    ends = (func.count(), func.min(behaviors.c.at), func.max(behaviors.c.at))
    query = select(*ends).where(behaviors.c.user_id == user_id, behaviors.c.seq > last_seq)
    count, since, until = connection.execute(query).one()
    return Cache(
        behaviors=count,
        since=None if since is None else format_time(since),
        until=None if until is None else format_time(until),
    )


def format_time(at: float) -> str:
    """An event time as text: "1998-03-31 14:05:09", UTC; seconds since the epoch where the calendar ends."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{at:.0f} s"
