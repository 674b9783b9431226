"""One user's history as partitions: when, what the interest texts say, and the behaviours behind them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
from sqlalchemy import Connection, RowMapping, func, select

from interest.check import evidence as claims
from interest.check.counts_behind import counts_behind
from interest.errors import InputError
from interest.facts.counts import Facts, facts_of
from interest.facts.values import Usual, shown
from interest.store.sql import behaviors_between, behaviors_inside, partition_of, partitions_of, read_items, read_users
from interest.store.statements import read_statements_of
from interest.store.tables import behaviors, interests, partitions
from interest.types import Behavior, Item, Partition, Source
from interest.write.backlog import read_usual
from streams.store.open_rows import last_of_scenes, still_open
from streams.store.users import check_user


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One behaviour behind a summary."""

    seq: int
    item_id: str
    title: str  # the item id where the catalogue has no title
    action: str
    value: float | None
    shown: str | None  # the value as people read it: 4, 0:52:10
    at: str


class WrittenText(msgspec.Struct, frozen=True, kw_only=True):
    """A summary or a shift, and who wrote it."""

    text: str
    source: str  # llm, statistics
    outcome: str


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What the model says of one title, from its own knowledge: nobody has checked it."""

    seq: int
    title: str
    about: str  # mood, theme, era, people, plot
    text: str


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """One closed partition. `summary` is None where no interest has been learned, `shift` also in the first one."""

    index: int
    scene: str | None  # none: of all scenes; empty: of those without one
    opened_at: str
    closed_at: str
    reason: str
    behaviors: int
    summary: WrittenText | None
    shift: WrittenText | None
    evidence: list[Evidence]
    counts: list[str]  # behind the likings of the LLM's summary: "dramas: 9 of 14 rated 4 or 5"
    claims: int
    supported: int
    model: str | None
    knowledge: list[Statement] = []  # the model's own, of titles: no part of what is said of the user


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


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Neighbouring partitions, summed up."""

    first: int  # indexes of the first and the last partition
    last: int
    opened_at: str
    closed_at: str
    behaviors: int
    partitions: int
    by_llm: int  # partitions whose summary an LLM wrote
    newest: WrittenText | None  # summary of the newest partition that has one


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which of a user's partitions to show; as it is made without arguments, all."""

    indexes: Sequence[int] = ()  # these alone
    since: float = -math.inf  # that closed at this event time or later
    until: float = math.inf  # that opened at this event time or earlier
    last: int | None = None  # of those, the newest so many

    @property
    def all(self) -> bool:
        return self == Choice()

    def of(self, closed: Sequence[Partition]) -> list[Partition]:
        """The chosen ones, oldest first. Raises InputError for an index that no partition has."""
        known = {partition.index for partition in closed}
        for index in self.indexes:
            if index not in known:
                there = f"the partitions are {min(known)} to {max(known)}" if known else "no partition is closed yet"
                raise InputError(f"--partition {index}: there is no such partition; {there}")
        chosen = [
            partition
            for partition in closed
            if (not self.indexes or partition.index in self.indexes)
            and partition.closed_at >= self.since
            and partition.opened_at <= self.until
        ]
        return chosen if self.last is None else chosen[max(0, len(chosen) - self.last) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the store says of a user before any evidence is read: a few hundred bytes a partition."""

    user_id: str
    profile: dict[str, str]
    generation: int
    prompt_version: str | None
    other_versions: list[str]
    closed: list[Partition]  # oldest first
    texts: dict[int, RowMapping] = field(repr=False)  # rows of `interests` by partition
    open: Cache


def read_history(connection: Connection, user_id: str, prompt_version: str | None = None) -> History:
    """One user's history, in the newest generation.

    `prompt_version`: whose interests; default: the version with the most of them (of equals, the last by name).
    Raises InputError for a user no table knows.
    """
    check_user(connection, user_id)
    generation = _newest_generation(connection, user_id)
    of_user = (interests.c.user_id == user_id, interests.c.generation == generation)
    rows = list(connection.execute(select(interests).where(*of_user)).mappings())
    counts = Counter(row["prompt_version"] for row in rows)
    version = prompt_version or _chosen_version(counts)
    closed = partitions_of(connection, user_id, generation)
    profile = read_users(connection, [user_id]).get(user_id)
    return History(
        user_id=user_id,
        profile=profile.attributes if profile else {},
        generation=generation,
        prompt_version=version,
        other_versions=sorted(set(counts) - {version}),
        closed=closed,
        texts={row["index"]: row for row in rows if row["prompt_version"] == version},
        open=_open_cache(connection, user_id, closed),
    )


def newest_periods(connection: Connection, user_id: str, before: int | None, most: int) -> tuple[list[Period], bool]:
    """A user's newest closed partitions before an index, at most `most`, newest first; and whether there are older.

    Of the generation and the prompt version that `read_history` chooses; nothing else of the history is read.
    """
    generation = _newest_generation(connection, user_id)
    own = (partitions.c.user_id == user_id, partitions.c.generation == generation)
    query = select(partitions).where(*own).order_by(partitions.c.index.desc()).limit(most + 1)
    if before is not None:
        query = query.where(partitions.c.index < before)
    closed = [partition_of(row) for row in connection.execute(query).mappings()]
    of_user = (interests.c.user_id == user_id, interests.c.generation == generation)
    counts = select(interests.c.prompt_version, func.count()).where(*of_user).group_by(interests.c.prompt_version)
    version = _chosen_version({row[0]: row[1] for row in connection.execute(counts)})
    shown, texts = closed[:most], {}
    if shown and version is not None:
        inside = interests.c.index.between(shown[-1].index, shown[0].index)
        written = select(interests).where(*of_user, interests.c.prompt_version == version, inside)
        texts = {row["index"]: row for row in connection.execute(written).mappings()}
    usual = read_usual(connection, [one for one in shown if one.index in texts])
    found = [_period(connection, one, texts.get(one.index), usual.get((user_id, one.index))) for one in shown]
    return found, len(closed) > most


def _newest_generation(connection: Connection, user_id: str) -> int:
    newest = select(func.max(partitions.c.generation)).where(partitions.c.user_id == user_id)
    return connection.scalar(newest) or 0


def _chosen_version(counts: Mapping[str, int]) -> str | None:
    return max(counts, key=lambda name: (counts[name], name), default=None)


def periods(connection: Connection, history: History, choice: Choice | None = None) -> Iterator[Period]:
    """The chosen partitions with their texts and evidence, oldest first, one by one."""
    for partition in (choice or Choice()).of(history.closed):
        yield _period(connection, partition, history.texts.get(partition.index))


def read_timeline(
    connection: Connection, user_id: str, prompt_version: str | None = None, choice: Choice | None = None
) -> Timeline:
    """One user's timeline, see `read_history`; of the chosen partitions alone."""
    history = read_history(connection, user_id, prompt_version)
    return Timeline(
        user_id=user_id,
        profile=history.profile,
        generation=history.generation,
        prompt_version=history.prompt_version,
        other_versions=history.other_versions,
        partitions=list(periods(connection, history, choice)),
        open=history.open,
    )


def spans(history: History, most: int) -> list[Span]:
    """All partitions as at most `most` runs of equally many neighbours, the last one the shorter."""
    size = max(1, math.ceil(len(history.closed) / most))
    runs = [history.closed[start : start + size] for start in range(0, len(history.closed), size)]
    return [_span(run, history.texts) for run in runs]


def _span(run: Sequence[Partition], texts: dict[int, RowMapping]) -> Span:
    written = [texts[partition.index] for partition in run if partition.index in texts]
    return Span(
        first=run[0].index,
        last=run[-1].index,
        opened_at=format_time(min(partition.opened_at for partition in run)),
        closed_at=format_time(max(partition.closed_at for partition in run)),
        behaviors=sum(partition.size for partition in run),
        partitions=len(run),
        by_llm=sum(row["summary_source"] == "llm" for row in written),
        newest=_summary(written[-1]) if written else None,
    )


def _period(connection: Connection, partition: Partition, row: RowMapping | None, usual: Usual | None = None) -> Period:
    """usual: what the user usually gave up to then, where it has been read already."""
    shift = WrittenText(text=row["shift"], source=row["shift_source"], outcome=row["shift_outcome"]) if row else None
    summary = _summary(row) if row else None
    evidence, counts = _behind(connection, partition, row, usual) if row else ([], [])
    return Period(
        index=partition.index,
        scene=partition.scene,
        opened_at=format_time(partition.opened_at),
        closed_at=format_time(partition.closed_at),
        reason=partition.reason.value,
        behaviors=partition.size,
        summary=summary,
        shift=shift if shift and shift.text else None,
        evidence=evidence,
        counts=counts,
        claims=row["claims"] if row else 0,
        supported=row["supported"] if row else 0,
        model=row["model"] if row else None,
        knowledge=read_knowledge(connection, row, partition) if row else [],
    )


def read_knowledge(connection: Connection, row: RowMapping, partition: Partition) -> list[Statement]:
    """What the model stated about titles beside the text in a row of `interests`."""
    stated = read_statements_of(connection, row["user_id"], row["generation"], row["index"], row["prompt_version"])
    if not stated:
        return []
    seqs = [one.seq for one in stated]
    rows = behaviors_between(connection, partition.user_id, min(seqs), max(seqs))
    item_of = {seq: behavior.item_id for seq, behavior in rows}
    items = read_items(connection, {item_of[seq] for seq in seqs if seq in item_of})
    return [
        Statement(seq=one.seq, title=items[item].title or item, about=one.about, text=one.text)
        for one in stated
        if (item := item_of.get(one.seq)) in items
    ]


def _summary(row: RowMapping) -> WrittenText:
    return WrittenText(text=row["summary"], source=row["summary_source"], outcome=row["summary_outcome"])


def _behind(
    connection: Connection, partition: Partition, row: RowMapping, usual: Usual | None
) -> tuple[list[Evidence], list[str]]:
    """The behaviours and the counts behind a summary. A statistics sentence has its counts in it."""
    seqs = msgspec.json.decode(row["evidence"], type=list[int])
    rows = behaviors_inside(connection, partition)
    items = read_items(connection, {behavior.item_id for _, behavior in rows})
    key = (partition.user_id, partition.index)
    facts = facts_of(rows, items, usual=usual or read_usual(connection, [partition])[key])
    inside = dict(rows)
    evidence = [_evidence(seq, inside[seq], items, facts) for seq in seqs if seq in inside]
    by_llm = row["summary_source"] == Source.LLM
    return evidence, counts_behind(row["summary"], claims.Evidence(facts)) if by_llm else []


def _evidence(seq: int, behavior: Behavior, items: Mapping[str, Item], facts: Facts) -> Evidence:
    return Evidence(
        seq=seq,
        item_id=behavior.item_id,
        title=items.get(behavior.item_id, Item(item_id=behavior.item_id)).title or behavior.item_id,
        action=behavior.action,
        value=behavior.value,
        shown=None if behavior.value is None else shown(behavior.value, facts.kind),
        at=format_time(behavior.at),
    )


def _open_cache(connection: Connection, user_id: str, closed: Sequence[Partition]) -> Cache:
    ends = (func.count(), func.min(behaviors.c.at), func.max(behaviors.c.at))
    query = select(*ends).where(behaviors.c.user_id == user_id, still_open(last_of_scenes(closed)))
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
