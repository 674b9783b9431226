"""Backlog: the closed partitions that have no interest yet, read in bounded chunks with all their facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Select, and_, func, or_, select

from interest.check.evidence import Evidence
from interest.errors import InputError
from interest.facts.base_rates import BaseRates
from interest.facts.counts import Facts, facts_of
from interest.facts.values import Usual
from interest.store import counters
from interest.store.sql import behaviors_inside, of_scene, partition_of, read_items, read_users
from interest.store.tables import behaviors, interests, items, partitions
from interest.types import Outcome, Partition
from interest.write.knowledge import BY_RATES
from interest.write.prompts import PROMPTS, Prompt, Style
from interest.write.unchanged import content_of, read_partition

FROZEN = "@"  # between a prompt's name and the version of the base rates that it reads
CHAINED = "+chained"  # what a chained run adds to the prompt version: its texts are other texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which partitions to write, by which prompts, and how they are worded."""

    prompt_version: str = "plain-1"
    chained: bool = False  # s_k also reads s_(k-1); then one user's partitions wait for each other
    style: Style = field(default_factory=Style)
    users: tuple[str, ...] = ()  # only these; empty: all
    users_limit: int | None = None  # only the users with the longest histories
    again: tuple[Outcome, ...] = ()  # texts that ended so are written once more
    rates: BaseRates | None = None  # the frozen base rates that the prompt version names, "plain-2@1f0c52aa"

    def __post_init__(self) -> None:
        if self.chained and not self.prompt_version.endswith(CHAINED):
            object.__setattr__(self, "prompt_version", self.prompt_version + CHAINED)

    def prompt(self) -> Prompt:
        """Raises InputError for an unknown version, and for one whose base rates are not those of the plan."""
        version = self.prompt_version.removesuffix(CHAINED)
        if version in PROMPTS:
            return PROMPTS[version]
        family, _, frozen = version.partition(FROZEN)
        check_version(self.prompt_version)
        if self.rates is None or self.rates.version != frozen:
            raise InputError(
                f"the prompt version {self.prompt_version!r} reads base rates that this store does not have; "
                "`interestream rates` shows what it has, and freezes or imports others"
            )
        return BY_RATES[family](self.rates)


def check_version(version: str) -> None:
    """Raise InputError for a prompt version that cannot be, whatever base rates a store has."""
    name = version.removesuffix(CHAINED)
    if name not in PROMPTS and name.partition(FROZEN)[0] not in BY_RATES:
        known = ", ".join(sorted((*PROMPTS, *BY_RATES)))
        raise InputError(f"there is no prompt version {version!r}; there are: {known}")


@dataclass(slots=True)
class Work:
    """One partition with everything its texts rest on."""

    partition: Partition
    evidence: Evidence
    previous: str | None  # the stored summary of the partition before, where it is not of this chunk
    content: bytes  # digest of the partition and its behaviours
    content_before: bytes  # of the partition before; empty: none
    forgets: int | None  # users forgotten before it was read; None: not known

    @property
    def user_id(self) -> str:
        return self.partition.user_id


def count_open(engine: Engine, plan: Plan, *, llm: bool) -> int:
    """How many closed partitions have no interest of this prompt version yet (with an LLM: none but a statistics
    one).
    """
    with engine.connect() as connection:
        wanted = _wanted(connection, plan)
        query = select(func.count()).select_from(_open_partitions(connection, plan, wanted, llm=llm).subquery())
        return int(connection.execute(query).scalar_one())


def users_waiting(engine: Engine, plan: Plan, size: int, *, llm: bool) -> list[tuple[str, int]]:
    """The first `size` users with something left to do, and how many partitions: the user whose open partition closed
    last, by event time, comes first.
    """
    with engine.connect() as connection:
        left = _open_partitions(connection, plan, _wanted(connection, plan), llm=llm).subquery()
        newest = func.max(left.c.closed_at).desc()
        query = select(left.c.user_id, func.count()).group_by(left.c.user_id).order_by(newest, left.c.user_id)
        return [(user, int(count)) for user, count in connection.execute(query.limit(size))]


def chunks(engine: Engine, plan: Plan, size: int, *, llm: bool, most: int | None = None) -> Iterator[list[Work]]:
    """What is left to do, in order of user and partition, `size` at a time and `most` in all; every chunk is read when
    its turn comes.
    """
    last: tuple[str, int] = ("", -1)
    left = most
    with engine.connect() as connection:
        wanted = _wanted(connection, plan)
        categories = read_categories(connection)
    while left is None or left > 0:
        with engine.connect() as connection:
            forgets = counters.read(connection, counters.FORGETS)
            query = _open_partitions(connection, plan, wanted, llm=llm).where(
                or_(
                    partitions.c.user_id > last[0],
                    and_(partitions.c.user_id == last[0], partitions.c.index > last[1]),
                )
            )
            query = query.order_by(partitions.c.user_id, partitions.c.index)
            query = query.limit(size if left is None else min(size, left))
            heads = [partition_of(row) for row in connection.execute(query).mappings()]
            if not heads:
                return
            chunk = load(connection, plan, heads, categories, forgets)
        last = (heads[-1].user_id, heads[-1].index)
        left = None if left is None else left - len(heads)
        yield chunk


def read_categories(connection: Connection) -> tuple[str, ...]:
    """All categories of the catalogue, in order."""
    known = connection.execute(select(items.c.categories).distinct()).scalars()
    return tuple(sorted({name for text in known for name in msgspec.json.decode(text)}))


def load(
    connection: Connection,
    plan: Plan,
    heads: Sequence[Partition],
    categories: tuple[str, ...],
    forgets: int | None = None,
) -> list[Work]:
    """The partitions' facts and those of the partitions before them. All are of one generation. `forgets`: how many
    users were forgotten before the heads were read.
    """
    wanted = {(head.user_id, head.index): head for head in heads}
    before = {(head.user_id, head.index): (head.user_id, head.before) for head in heads if head.before is not None}
    missing = [key for key in dict.fromkeys(before.values()) if key not in wanted]
    for key in missing:
        if (earlier := read_partition(connection, key, heads[0].generation)) is not None:
            wanted[key] = earlier
    inside = {key: behaviors_inside(connection, head) for key, head in wanted.items()}
    contents = {key: content_of(wanted[key], rows) for key, rows in inside.items()}
    catalogue = read_items(connection, {b.item_id for rows in inside.values() for _, b in rows})
    profiles = read_users(connection, {user for user, _ in wanted})
    usual = read_usual(connection, wanted.values())
    facts: Mapping[tuple[str, int], Facts] = {
        key: facts_of(rows, catalogue, profiles.get(key[0]), usual[key], wanted[key].scene)
        for key, rows in inside.items()
    }
    stored = {key: _stored_summary(connection, key, heads[0].generation, plan.prompt_version) for key in missing}
    return [
        Work(
            partition=head,
            evidence=Evidence(
                facts[key],
                facts.get(before[key]) if key in before else None,
                categories,
                nouns=plan.style.noun,
            ),
            previous=stored.get(before[key]) if key in before else None,
            content=contents[key],
            content_before=contents.get(before[key], b"") if key in before else b"",
            forgets=forgets,
        )
        for head in heads
        for key in [(head.user_id, head.index)]
    ]


def read_usual(connection: Connection, heads: Iterable[Partition]) -> dict[tuple[str, int], Usual]:
    """What each user usually gave up to each of the partitions, by (user, index); in its scene, where it is of one.

    Every row is read once for a scene, by the key's order: 4 ms for a user with 25,000 behaviours.
    """
    value = behaviors.c.value
    found: dict[tuple[str, int], Usual] = {}
    whose: tuple[str, str | None] | None = None
    read_to, count, total, most = -1, 0, 0.0, 0.0
    for head in sorted(heads, key=lambda head: (head.user_id, head.scene or "", head.last_seq)):
        if (head.user_id, head.scene) != whose:
            whose, read_to, count, total, most = (head.user_id, head.scene), -1, 0, 0.0, 0.0
        sums = select(func.count(value), func.coalesce(func.sum(value), 0.0), func.coalesce(func.max(value), 0.0))
        sums = sums.where(
            behaviors.c.user_id == head.user_id, behaviors.c.seq > read_to, behaviors.c.seq <= head.last_seq
        )
        row = connection.execute(sums if head.scene is None else sums.where(of_scene(head.scene))).one()
        count, total, most = count + int(row[0]), total + float(row[1]), max(most, float(row[2]))
        read_to = head.last_seq
        found[head.user_id, head.index] = Usual.of(count, total, most)
    return found


def _stored_summary(connection: Connection, key: tuple[str, int], generation: int, version: str) -> str | None:
    query = select(interests.c.summary).where(
        interests.c.user_id == key[0],
        interests.c.index == key[1],
        interests.c.generation == generation,
        interests.c.prompt_version == version,
    )
    return connection.execute(query).scalar()


def _wanted(connection: Connection, plan: Plan) -> list[str] | None:
    """The users to learn, or None for all."""
    if plan.users:
        query = select(partitions.c.user_id).where(partitions.c.user_id.in_(plan.users)).distinct()
        existing = set(connection.execute(query).scalars())
        if absent := [user for user in plan.users if user not in existing]:
            raise InputError(
                f"user {absent[0]!r} has no closed partition in this store; `interestream stats` shows what there is"
            )
        return sorted(existing)
    if plan.users_limit is not None:
        longest = (
            select(partitions.c.user_id)
            .group_by(partitions.c.user_id)
            .order_by(func.max(partitions.c.last_seq).desc(), partitions.c.user_id)
            .limit(plan.users_limit)
        )
        return sorted(connection.execute(longest).scalars())
    return None


def _open_partitions(connection: Connection, plan: Plan, wanted: list[str] | None, *, llm: bool) -> Select[Any]:
    """The closed partitions of the newest generation without an interest of this prompt version."""
    generation = connection.execute(select(func.max(partitions.c.generation))).scalar() or 0
    same = and_(
        interests.c.user_id == partitions.c.user_id,
        interests.c.generation == partitions.c.generation,
        interests.c.index == partitions.c.index,
        interests.c.prompt_version == plan.prompt_version,
    )
    if llm:  # a text that was written without an LLM by choice is still to be learnt
        same = and_(same, interests.c.summary_outcome != Outcome.STATISTICS)
    if plan.again:
        same = and_(same, interests.c.summary_outcome.not_in(plan.again), interests.c.shift_outcome.not_in(plan.again))
    query = select(partitions).outerjoin(interests, same)
    query = query.where(partitions.c.generation == generation, interests.c.user_id.is_(None))
    return query if wanted is None else query.where(partitions.c.user_id.in_(wanted))
