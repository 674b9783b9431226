"""How a user's behaviours become partitions, by the policy's scenes: what Ingest needs of either way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from interest.types import Behavior, Item, Partition
from streams.ubsp.fold import Cache, Verdict, fold, sweep
from streams.ubsp.policy import Policy, Scenes
from streams.ubsp.restore import restore_caches, restore_users
from streams.ubsp.scenes import UserScenes, fold_scenes, sweep_scenes

C = TypeVar("C")
USER_BYTES = 500  # of a cache without identities, and its place in a dict


@dataclass(frozen=True, slots=True)
class Folding(Generic[C]):
    """What is held of a user is a C."""

    empty: Callable[[str], C]
    fold: Callable[[C, Behavior, Policy, int], tuple[C, Verdict, tuple[Partition, ...]]]
    sweep: Callable[[C, float, Policy], tuple[C, Sequence[Partition]]]
    restore: Callable[[Connection, Sequence[str], Policy, Mapping[str, Item]], dict[str, C]]
    size: Callable[[C], int]  # bytes in memory, about


def folding_of(policy: Policy) -> Folding[Any]:
    return APART if policy.scenes is Scenes.APART else JOINED


def _sweep(cache: Cache, watermark: float, policy: Policy) -> tuple[Cache, Sequence[Partition]]:
    after, partition = sweep(cache, watermark, policy)
    return after, () if partition is None else (partition,)


def _size(cache: Cache) -> int:
    return USER_BYTES + len(cache.open) + len(cache.closed)


JOINED = Folding(Cache, fold, _sweep, restore_caches, _size)
APART = Folding(
    UserScenes,
    fold_scenes,
    sweep_scenes,
    restore_users,
    lambda user: USER_BYTES + sum(_size(one.cache) for one in user.scenes.values()),
)
