"""Partitions of each scene by itself: a user has one open cache for each of their scenes. Pure, as `fold` is.

A scene's behaviours are folded as the user's whole log is elsewhere: their partitions are those of a log that holds
nothing else. What the user's scenes share are the numbers. A behaviour has its place among all of the user's, and a
partition the next index when its first behaviour comes: neither depends on when a sweep closes a partition.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec

from interest.types import Behavior, Partition
from streams.ubsp.fold import DUPLICATE, Cache, Identity, Verdict, fold, restore, sweep
from streams.ubsp.policy import Policy


class SceneCache(msgspec.Struct, frozen=True, gc=False):
    """The open cache of one scene. `cache` counts the scene's own behaviours, the rest is of all the user's."""

    cache: Cache
    index: int = -1  # of the open partition; these three only mean something where `cache` has behaviours
    first_seq: int = -1  # of its first behaviour, and of its last
    last_seq: int = -1
    previous: int | None = None  # the index of the scene's newest closed partition


class UserScenes(msgspec.Struct, frozen=True):
    """A user's open caches, by scene; under an empty name that of the behaviours without one."""

    user_id: str
    next_seq: int = 0
    next_index: int = 0
    scenes: dict[str, SceneCache] = {}


def scene_of(behavior: Behavior) -> str:
    """The scene whose partitions a behaviour joins; those without one have partitions of their own."""
    return behavior.scene or ""


def fold_scenes(
    user: UserScenes, behavior: Behavior, policy: Policy, tokens: int = 0
) -> tuple[UserScenes, Verdict, tuple[Partition, ...]]:
    """Add one behaviour to the cache of its scene; returns what `fold` does, in the user's numbers."""
    name = scene_of(behavior)
    own = user.scenes.get(name) or SceneCache(Cache(user.user_id))
    cache, verdict, ended = fold(own.cache, behavior, policy, tokens)
    if verdict is DUPLICATE:
        return user, verdict, ()
    next_index, closed = user.next_index, []
    left = list(ended)
    if left and left[0].last_seq < own.cache.next_seq:  # it ends before this behaviour
        own, partition = _closed(own, left.pop(0), name)
        closed.append(partition)
    if own.index < 0:
        own = SceneCache(own.cache, next_index, user.next_seq, user.next_seq, own.previous)
        next_index += 1
    own = SceneCache(cache, own.index, own.first_seq, user.next_seq, own.previous)
    if left:  # it ends with this behaviour
        own, partition = _closed(own, left[0], name)
        closed.append(partition)
    after = UserScenes(user.user_id, user.next_seq + 1, next_index, {**user.scenes, name: own})
    return after, verdict, tuple(closed)


def sweep_scenes(user: UserScenes, watermark: float, policy: Policy) -> tuple[UserScenes, list[Partition]]:
    """Close the caches whose gap or calendar span has passed by `watermark`, see `sweep`; in order of their index."""
    scenes, swept = dict(user.scenes), []
    for name, own in user.scenes.items():
        cache, one = sweep(own.cache, watermark, policy)
        if one is not None:
            after = SceneCache(cache, own.index, own.first_seq, own.last_seq, own.previous)
            scenes[name], partition = _closed(after, one, name)
            swept.append(partition)
    swept_user = UserScenes(user.user_id, user.next_seq, user.next_index, scenes) if swept else user
    return swept_user, sorted(swept, key=lambda one: one.index)


def _closed(own: SceneCache, one: Partition, scene: str) -> tuple[SceneCache, Partition]:
    """The scene without its open partition, and that, closed, in the user's numbers."""
    partition = msgspec.structs.replace(
        one, index=own.index, first_seq=own.first_seq, last_seq=own.last_seq, scene=scene, previous=own.previous,
        members=one.size,
    )  # fmt: skip
    return SceneCache(own.cache, previous=own.index), partition


class ClosedScene(NamedTuple):
    """What a store says of a scene's closed partitions."""

    newest: Partition
    end: float  # the greatest closed_at
    partitions: int
    behaviors: int

    def by_itself(self) -> Partition:
        """The newest in the scene's own numbers."""
        first = self.behaviors - self.newest.size
        return msgspec.structs.replace(
            self.newest, index=self.partitions - 1, first_seq=first, last_seq=self.behaviors - 1, scene=None,
            previous=None, members=None,
        )  # fmt: skip


def restore_scenes(
    user_id: str,
    next_seq: int,
    indexes: Collection[int],
    closed: Mapping[str, ClosedScene],
    rows: Mapping[str, Iterable[tuple[int, Identity, float, int]]],
) -> UserScenes:
    """The caches a store's rows stand for: what folding the user's whole past would have left.

    Args:
        indexes: of all the user's closed partitions.
        rows: of each scene (place, identity, event time, tokens) in order of arrival, from its newest partition on.
    """
    scenes: dict[str, SceneCache] = {}
    opened: list[tuple[int, str]] = []
    for name in {**closed, **rows}:
        past, known = closed.get(name), list(rows.get(name, ()))
        newest, end = (past.by_itself(), past.end) if past else (None, float("-inf"))
        cache = restore(user_id, newest, end, [row[1:] for row in known])
        scenes[name] = SceneCache(cache, previous=past.newest.index if past else None)
        size = newest.size if newest else 0
        if known[size:]:
            scenes[name] = msgspec.structs.replace(scenes[name], first_seq=known[size][0], last_seq=known[-1][0])
            opened.append((known[size][0], name))
    free = iter(sorted(set(range(len(indexes) + len(opened))) - set(indexes)))
    for _, name in sorted(opened):  # indexes are given in the order in which partitions were opened
        scenes[name] = msgspec.structs.replace(scenes[name], index=next(free))
    return UserScenes(user_id, next_seq, len(indexes) + len(opened), scenes)
