"""How many behaviours have an item in the catalogue, and how many a user profile: whether the files' ids meet."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, exists, func, select

from interest.store.tables import behaviors, items, users


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of behaviours; none where there is no catalogue, or no profiles."""

    behaviors: int
    with_item: int | None
    with_profile: int | None


def read_coverage(connection: Connection) -> Coverage:
    """Count. One look-up of the item and of the profile for each behaviour: about 1 s for a million."""
    found: dict[str, int | None] = {}
    for name, table, key in (("with_item", items, "item_id"), ("with_profile", users, "user_id")):
        query = (
            select(func.count())
            .select_from(behaviors)
            .where(exists(select(table.c[key]).where(table.c[key] == behaviors.c[key])))
        )
        has_rows = connection.execute(select(table.c[key]).limit(1)).first() is not None
        found[name] = connection.scalar(query) if has_rows else None
    total = connection.scalar(select(func.count()).select_from(behaviors)) or 0
    return Coverage(behaviors=total, with_item=found["with_item"], with_profile=found["with_profile"])


def coverage_line(coverage: Coverage) -> str:
    """The counts as a sentence; where nothing meets, with what to look at."""
    parts = []
    for count, what, option in (
        (coverage.with_item, "an item in the catalogue", "--items"),
        (coverage.with_profile, "a user profile", "--users"),
    ):
        parts.append(f"{count:,} have {what}" if count is not None else f"none has {what} ({option} gives them)")
    line = f"of {coverage.behaviors:,} behaviours {', '.join(parts)}"
    if coverage.behaviors and 0 in (coverage.with_item, coverage.with_profile):
        line += "; the ids of the files do not meet: compare them in the table above, and --map the right columns"
    return line
