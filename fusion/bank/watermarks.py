"""Which behaviours a bank has not been filled with: those beyond a mark that each user has in the store.

A mark is moved after the vectors are written, so that a crash between costs a second look and no forward pass. Marks
are per user because behaviours are: nothing in the store orders those of several users by arrival. What the catalogue
says of an item after its behaviours were filled is not looked at again; `interestream bank fill` goes over everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, select
from sqlalchemy import text as sql

from fusion.tables import bank_marks
from interest.store.sql import upsert

# A walk over distinct users, three index seeks each, from the one after :after on.
_USERS = sql("""
    with recursive people (id) as (
        select min(user_id) from behaviors where user_id > :after
        union all
        select (select min(user_id) from behaviors where user_id > people.id) from people where people.id is not null
    )
    select
        id,
        (select seq from bank_marks where user_id = people.id and bank = :bank),
        (select max(seq) from behaviors where user_id = people.id)
    from people where id is not null limit :most
""")


class Span(NamedTuple):
    """Some behaviours of a user, by their sequence numbers, both included."""

    user_id: str
    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


class Page(NamedTuple):
    spans: list[Span]  # beyond the marks, of users in order
    after: str | None  # where the next page begins; none: there is none


def read_page(connection: Connection, bank: str, after: str, most: int) -> Page:
    """What of the next `most` users, those with ids above `after`, is beyond their marks in a bank."""
    rows = connection.execute(_USERS, {"bank": bank, "after": after, "most": most}).all()
    spans = [Span(user, 0 if mark is None else mark + 1, last) for user, mark, last in rows]
    return Page([one for one in spans if one.size > 0], rows[-1][0] if len(rows) == most else None)


def write_watermarks(connection: Connection, bank: str, spans: Sequence[Span]) -> None:
    """The bank has the texts of these behaviours, and of all before them."""
    upsert(connection, bank_marks, [{"user_id": one.user_id, "bank": bank, "seq": one.last} for one in spans])


def read_watermarks(connection: Connection, bank: str) -> dict[str, int]:
    """Every user's mark in a bank."""
    query = select(bank_marks.c.user_id, bank_marks.c.seq).where(bank_marks.c.bank == bank)
    return {row[0]: row[1] for row in connection.execute(query)}


def split_spans(spans: Sequence[Span], most: int) -> tuple[list[Span], list[Span]]:
    """The first spans with `most` behaviours, and the rest; a span that is longer is cut."""
    taken: list[Span] = []
    for place, one in enumerate(spans):
        if one.size > most:
            cut = one.first + most
            parts = [one._replace(last=cut - 1)] if most else []
            return taken + parts, [one._replace(first=cut), *spans[place + 1 :]]
        taken.append(one)
        most -= one.size
    return taken, []
