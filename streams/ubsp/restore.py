"""Restores users' caches from the store: their newest partition's rows and all after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Connection, and_, func, or_, select

from interest.store.sql import behavior_of, of_scene, partition_of, partition_size
from interest.store.tables import behaviors, partitions
from interest.types import Behavior, Item, Partition
from streams.ubsp.fold import Cache, Identity, identity, restore
from streams.ubsp.policy import Dedupe, Policy, token_cost
from streams.ubsp.scenes import ClosedScene, UserScenes, restore_scenes, scene_of

_USERS_A_QUERY = 500


def restore_caches(
    connection: Connection, user_ids: Sequence[str], policy: Policy, items: Mapping[str, Item]
) -> dict[str, Cache]:
    """The cache of each user; a user the store does not know gets an empty one."""
    parts = (_restore(connection, some, policy, items) for some in _by_query(user_ids))
    return {user_id: cache for part in parts for user_id, cache in part.items()}


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
        rows[behavior.user_id].append(_known(behavior, policy, items))
    return {
        user_id: restore(user_id, newest.get(user_id), ends.get(user_id, float("-inf")), rows[user_id])
        for user_id in user_ids
    }


def _by_query(user_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (user_ids[start : start + _USERS_A_QUERY] for start in range(0, len(user_ids), _USERS_A_QUERY))


def _known(behavior: Behavior, policy: Policy, items: Mapping[str, Item]) -> tuple[Identity, float, int]:
    cost = token_cost(behavior, items.get(behavior.item_id)) if policy.tokens is not None else 0
    return identity(behavior, policy.dedupe or Dedupe.AUTO), behavior.at, cost


def restore_users(
    connection: Connection, user_ids: Sequence[str], policy: Policy, items: Mapping[str, Item]
) -> dict[str, UserScenes]:
    """The caches of each user, where scenes are kept apart. It walks the user's rows: no index knows scenes."""
    parts = (_restore_users(connection, some, policy, items) for some in _by_query(user_ids))
    return {user_id: scenes for part in parts for user_id, scenes in part.items()}


def _restore_users(
    connection: Connection, user_ids: Sequence[str], policy: Policy, items: Mapping[str, Item]
) -> dict[str, UserScenes]:
    key = (partitions.c.user_id, partitions.c.scene)
    chosen = partitions.c.user_id.in_(user_ids) & (partitions.c.generation == 0)
    last = (
        select(
            *key,
            func.max(partitions.c.index).label("index"),  # a scene's partitions are opened one after the other
            func.max(partitions.c.closed_at).label("end"),
            func.count().label("count"),
            func.sum(partition_size()).label("behaviors"),
        )
        .where(chosen)
        .group_by(*key)
        .subquery()
    )
    headers = (
        select(partitions, last.c.end, last.c.count, last.c.behaviors)
        .join(last, and_(partitions.c.user_id == last.c.user_id, partitions.c.index == last.c.index))
        .where(partitions.c.generation == 0)
    )
    closed: dict[str, dict[str, ClosedScene]] = defaultdict(dict)
    for row in connection.execute(headers).mappings():
        past = ClosedScene(partition_of(row), row["end"], row["count"], int(row["behaviors"]))
        closed[row["user_id"]][row["scene"]] = past
    indexes: dict[str, list[int]] = defaultdict(list)
    for user_id, index in connection.execute(select(partitions.c.user_id, partitions.c.index).where(chosen)):
        indexes[user_id].append(index)
    ends = select(behaviors.c.user_id, func.max(behaviors.c.seq)).where(behaviors.c.user_id.in_(user_ids))
    next_seq = {user_id: seq + 1 for user_id, seq in connection.execute(ends.group_by(behaviors.c.user_id))}

    header = headers.subquery()
    same = and_(behaviors.c.user_id == header.c.user_id, of_scene(header.c.scene))
    since = (
        select(behaviors)
        .outerjoin(header, same)
        .where(behaviors.c.user_id.in_(user_ids))
        .where(or_(header.c.first_seq.is_(None), behaviors.c.seq >= header.c.first_seq))
        .order_by(behaviors.c.user_id, behaviors.c.seq)
    )
    rows: dict[str, dict[str, list[tuple[int, Identity, float, int]]]] = defaultdict(lambda: defaultdict(list))
    for row in connection.execute(since).mappings():
        behavior = behavior_of(row)
        rows[behavior.user_id][scene_of(behavior)].append((row["seq"], *_known(behavior, policy, items)))
    return {
        user_id: restore_scenes(user_id, next_seq.get(user_id, 0), indexes[user_id], closed[user_id], rows[user_id])
        for user_id in user_ids
    }
