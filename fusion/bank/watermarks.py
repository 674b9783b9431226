"""Watermarks: how far each user's behaviours are in a bank, by sequence number, kept in the store.

A watermark is moved after the vectors are written, so that a crash in between costs a second look and no forward pass.
Watermarks are per user because sequence numbers are: nothing in the store orders several users' behaviours by arrival.
A change of an item's catalogue entry after its behaviours were filled goes unseen; `interestream bank fill` reads all.
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
    """What some users have beyond their watermarks."""

    spans: list[Span]  # beyond the watermarks, in the order of user ids
    after: str | None  # where the next page begins; None: this is the last


def read_page(connection: Connection, bank: str, after: str, most: int) -> Page:
    """The behaviours beyond their watermarks of the next `most` users, those with ids above `after`."""
    rows = connection.execute(_USERS, {"bank": bank, "after": after, "most": most}).all()
    spans = [Span(user, 0 if mark is None else mark + 1, last) for user, mark, last in rows]
    return Page([span for span in spans if span.size > 0], rows[-1][0] if len(rows) == most else None)


def write_watermarks(connection: Connection, bank: str, spans: Sequence[Span]) -> None:
    """Note that the bank has the texts of these behaviours, and of all before them."""
    upsert(connection, bank_marks, [{"user_id": span.user_id, "bank": bank, "seq": span.last} for span in spans])


def read_watermarks(connection: Connection, bank: str) -> dict[str, int]:
    """Every user's watermark in a bank."""
    query = select(bank_marks.c.user_id, bank_marks.c.seq).where(bank_marks.c.bank == bank)
    return {row[0]: row[1] for row in connection.execute(query)}


def split_spans(spans: Sequence[Span], most: int) -> tuple[list[Span], list[Span]]:
    """Split spans after `most` behaviours; a span in the middle is split too."""
    taken: list[Span] = []
    for number, span in enumerate(spans):
        if span.size > most:
            middle = span.first + most
            parts = [span._replace(last=middle - 1)] if most else []
            return taken + parts, [span._replace(first=middle), *spans[number + 1 :]]
        taken.append(span)
        most -= span.size
    return taken, []
