"""Publishing every user's newest representation again, after another artifact was put in force.

The users of one Kafka partition go by the hash of their key, and how far that has come stands in the store, changed in
the transaction of each chunk's announcements: a worker that takes over goes on there. The number tells nothing of a
user, so forgetting one leaves no trace in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from aiokafka.partitioner import murmur2
from sqlalchemy import Connection, Engine, select, update
from sqlalchemy import text as sql

from interest.store.sql import insert_new
from interest.store.tables import counters

HASHES = 1 << 31  # Kafka's partitioner uses 31 bits of the hash
PAGE = 5_000  # users read at once: 50 ms

# A walk over distinct users, one index seek each, from the one after :after on.
_USERS = sql("""
    with recursive people (id) as (
        select min(user_id) from vectors where user_id > :after
        union all
        select (select min(user_id) from vectors where user_id > people.id) from people where people.id is not null
    )
    select id from people where id is not null limit :most
""")


class OvertakenError(Exception):
    """Another worker has gone on with it: read how far it is."""


@dataclass(slots=True)
class RepublishProgress:
    """One Kafka partition's users that are left, in order of their hash."""

    number: int  # the activation
    partition: int
    done: int  # users with a lesser hash are done
    left: list[tuple[int, str]]  # hash and user

    def chunk(self, most: int) -> tuple[list[str], int]:
        """The next users, about so many, and the `done` after them: all users of one hash are in one chunk."""
        some = self.left[:most]
        if not some:
            return [], HASHES
        last = some[-1][0]
        some += takewhile(lambda one: one[0] == last, self.left[most:])
        return [user for _, user in some], last + 1 if len(some) < len(self.left) else HASHES

    def advance(self, count: int, done: int) -> None:
        self.left, self.done = self.left[count:], done

    @property
    def finished(self) -> bool:
        return self.done >= HASHES


def plan_republishing(
    engine: Engine, topic: str, partition: int, partitions: int, number: int
) -> RepublishProgress | None:
    """What is left to publish of one of a topic's Kafka partitions by activation `number`; none: nothing."""
    with engine.connect() as connection:
        query = select(counters.c.value).where(counters.c.name == counter_name(topic, partition))
        reached, done = divmod(connection.scalar(query) or 0, 2 * HASHES)
    if reached > number or (reached == number and done >= HASHES):
        return None
    done = done if reached == number else 0
    found = []
    after = ""
    while True:
        with engine.connect() as connection:
            users = connection.scalars(_USERS, {"after": after, "most": PAGE}).all()
        for user in users:
            hashed = murmur2(user.encode()) & (HASHES - 1)
            if hashed % partitions == partition and hashed >= done:
                found.append((hashed, user))
        if len(users) < PAGE:
            return RepublishProgress(number, partition, done, sorted(found))
        after = users[-1]


def save_progress(connection: Connection, topic: str, work: RepublishProgress, done: int) -> None:
    """Write how far it has come, by compare-and-set. Raises OvertakenError where another worker moved it."""
    name, before = counter_name(topic, work.partition), work.number * 2 * HASHES + work.done
    if work.done == 0:  # the first chunk: whatever an earlier activation left there
        insert_new(connection, counters, [{"name": name, "value": 0}])
        same = counters.c.value <= before
    else:
        same = counters.c.value == before
    moved = update(counters).where(counters.c.name == name, same).values(value=before - work.done + done)
    if connection.execute(moved).rowcount != 1:
        raise OvertakenError


def counter_name(topic: str, partition: int) -> str:
    return f"republished:{topic}:{partition}"
