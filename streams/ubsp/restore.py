"""Restores users' caches from the store: their newest partition's rows and all after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, and_, func, select

from interest.store.sql import behavior_of, partition_of
from interest.store.tables import behaviors, partitions
from interest.types import Item, Partition
from streams.ubsp.fold import Cache, Identity, identity, restore
from streams.ubsp.policy import Dedupe, Policy, token_cost

_USERS_A_QUERY = 500


def restore_caches(
    connection: Connection, user_ids: Sequence[str], policy: Policy, items: Mapping[str, Item]
) -> dict[str, Cache]:
    """The cache of each user; a user the store does not know gets an empty one."""
    caches: dict[str, Cache] = {}
    for start in range(0, len(user_ids), _USERS_A_QUERY):
        caches.update(_restore(connection, user_ids[start : start + _USERS_A_QUERY], policy, items))
    return caches


def _restore(
    connection: Connection, user_ids: Sequence[str], policy: Policy, items: Mapping[str, Item]
) -> dict[str, Cache]:
    chosen = partitions.c.user_id.in_(user_ids) & (partitions.c.generation == 0)
    last = (
        select(
            partitions.c.user_id,
            func.max(partitions.c.index).label("index"),
            func.max(partitions.c.closed_at).label("end"),
        )
        .where(chosen)
        .group_by(partitions.c.user_id)
        .subquery()
    )
    headers = (
        select(partitions, last.c.end)
        .join(last, and_(partitions.c.user_id == last.c.user_id, partitions.c.index == last.c.index))
        .where(partitions.c.generation == 0)
    )
    newest: dict[str, Partition] = {}
    ends: dict[str, float] = {}
    for row in connection.execute(headers).mappings():
        ends[row["user_id"]] = row["end"]
        newest[row["user_id"]] = partition_of(row)

    rows: dict[str, list[tuple[Identity, float, int]]] = defaultdict(list)
    header = headers.subquery()
    since = select(behaviors).join(
        header, and_(behaviors.c.user_id == header.c.user_id, behaviors.c.seq >= header.c.first_seq)
    )
    fresh = select(behaviors).where(behaviors.c.user_id.in_([user for user in user_ids if user not in newest]))
    ordered = since.union_all(fresh).order_by("user_id", "seq")
    for row in connection.execute(ordered).mappings():
        behavior = behavior_of(row)
        cost = token_cost(behavior, items.get(behavior.item_id)) if policy.tokens is not None else 0
        key = identity(behavior, policy.dedupe or Dedupe.AUTO)
        rows[behavior.user_id].append((key, behavior.at, cost))
    return {
        user_id: restore(user_id, newest.get(user_id), ends.get(user_id, float("-inf")), rows[user_id])
        for user_id in user_ids
    }
