"""What the service shows of a user: interests with their evidence, the representation, behaviours. Newest first."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Connection, func, select

from fusion.interests.centroids import read_centroids
from fusion.tables import representations
from interest.store.sql import behavior_of, read_items
from interest.store.tables import behaviors, interests, partitions
from streams.service.models import Page, Representation
from streams.service.problems import ProblemError
from streams.store.timeline import newest_periods
from streams.store.users import user_tables

MARKS: dict[str, Any] = {  # what numbers each kind of thing about a user
    "behavior": behaviors.c.seq,
    "partition": partitions.c.index,
    "interest": interests.c.index,
    "representation": representations.c.index,
}


def interests_page(connection: Connection, user_id: str, limit: int, before: int | None) -> Page:
    """Closed partitions before an index, newest first, with summary, shift, source and evidence."""
    require_user(connection, user_id)
    found, more = newest_periods(connection, user_id, before, limit)
    return Page(items=msgspec.to_builtins(found), next=found[-1].index if more else None)


def behaviors_page(connection: Connection, user_id: str, limit: int, before: int | None) -> Page:
    """Behaviours before a sequence number, newest first, with their items' titles."""
    require_user(connection, user_id)
    query = select(behaviors).where(behaviors.c.user_id == user_id)
    if before is not None:
        query = query.where(behaviors.c.seq < before)
    rows = connection.execute(query.order_by(behaviors.c.seq.desc()).limit(limit + 1)).mappings().all()
    titles = read_items(connection, {row["item_id"] for row in rows})
    shown = []
    for row in rows[:limit]:
        item = titles.get(row["item_id"])
        shown.append(msgspec.to_builtins(behavior_of(row)) | {"seq": row["seq"], "title": item.title if item else ""})
    return Page(items=shown, next=rows[limit - 1]["seq"] if len(rows) > limit else None)


def representation(connection: Connection, user_id: str, artifact: str | None) -> Representation:
    """The newest vector of the user, by this artifact where it has made one, else by whatever made the newest."""
    require_user(connection, user_id)
    query = select(representations).where(representations.c.user_id == user_id)
    newest = query.order_by(representations.c.generation.desc(), representations.c.index.desc()).limit(1)
    row = None
    if artifact is not None:
        row = connection.execute(newest.where(representations.c.artifact == artifact)).mappings().first()
    row = row or connection.execute(newest).mappings().first()
    if row is None:
        raise ProblemError(404, "the user has no representation yet: no partition of theirs was fused", field="user_id")
    centroids = read_centroids(connection, (user_id, row["generation"], row["index"]))
    return Representation(
        user_id=user_id,
        artifact=row["artifact"],
        index=row["index"],
        vector=np.frombuffer(row["vector"], "<f4").tolist(),
        common=_numbers(row["common"], "<f4"),
        encoder="" if centroids is None else centroids.encoder,
        liked=None if centroids is None else _numbers(centroids.liked, "<f2"),
        disliked=None if centroids is None else _numbers(centroids.disliked, "<f2"),
    )


def _numbers(packed: bytes | None, kind: str) -> list[float] | None:
    return None if packed is None else np.frombuffer(packed, kind).tolist()


def require_user(connection: Connection, user_id: str) -> None:
    """Raise a 404 for a user whom no table knows; its text names nobody else."""
    for table in user_tables():
        if connection.execute(select(table.c.user_id).where(table.c.user_id == user_id).limit(1)).first():
            return
    raise ProblemError(404, "there is no such user", field="user_id")


def marks(connection: Connection, user_id: str) -> dict[str, Any]:
    """How far each kind of thing about a user has come: what a subscriber of updates compares."""
    columns = MARKS.values()
    query = select(
        *(select(func.max(column)).where(column.table.c.user_id == user_id).scalar_subquery() for column in columns)
    )
    return dict(zip(MARKS, connection.execute(query).one(), strict=True))
