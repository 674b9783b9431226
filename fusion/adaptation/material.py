"""What is learnt and what is held out: items and users are divided by hash, behaviours by the cut in time.

No training document names a held-out item, tells of a held-out user, or rests on a behaviour from the cut on.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from fusion.adaptation.document import drawn
from fusion.features.log import Array, Log
from fusion.features.splits import TRAIN, split
from interest.types import Item

HELD_ITEMS, HELD_USERS = 0.05, 0.05  # shares


@dataclass(frozen=True, slots=True)
class Material:
    """What one side's documents are made of."""

    catalogue: Mapping[str, Item]  # items that are told and asked about
    names: Mapping[str, Item]  # items that histories name
    likes: Log  # behaviours by which items are related
    liked: Array  # (N,) bool, of the rows of `likes`: by all that the user did before the cut
    told: Log  # behaviours that histories tell


def default_cut(log: Log) -> float:
    """Event time of the first behaviour after the training part of the split `global`; after the last where none is."""
    rest = log.at[split(log, "global") != TRAIN]
    return float(rest.min()) if len(rest) else float(np.nextafter(log.at.max(), np.inf))


def divide(log: Log, catalogue: Mapping[str, Item], cut: float, seed: int) -> tuple[Material, Material]:
    """What is learnt, and what is held out of it.

    Of the held-out side, items are related by the likes of users that are learnt from, and histories are those of
    held-out users over items that are learnt.
    """
    # by the title: under another id the same item would be learnt
    held_item = {key for key, item in catalogue.items() if drawn(f"item {item.title or key}", seed, HELD_ITEMS)}
    log = numbered_alone(rows_of(log, log.at < cut))
    shown = liked(log)
    held_user = np.array([drawn(f"user {user_id}", seed, HELD_USERS) for user_id in log.users], bool)
    of_held_user = held_user[log.user] if len(log.user) else np.empty(0, bool)
    on_held_item = np.array([item_id in held_item for item_id in log.items], bool)[log.item]
    learns, asks = ~of_held_user & ~on_held_item, ~of_held_user & on_held_item
    learnt = rows_of(log, learns)
    known = {key: item for key, item in catalogue.items() if key not in held_item}
    return (
        Material(known, known, learnt, shown[learns], learnt),
        Material(
            {key: item for key, item in catalogue.items() if key in held_item},
            known,
            rows_of(log, asks),
            shown[asks],
            rows_of(log, of_held_user & ~on_held_item),
        ),
    )


def rows_of(log: Log, mask: Array) -> Log:
    """The log with these rows only; users and items keep their numbers."""
    user = log.user[mask]
    starts = np.searchsorted(user, np.arange(len(log.users) + 1)).astype(np.int64)
    names = ("item", "action", "seq", "at", "value")
    kept = {name: getattr(log, name)[mask] for name in names}
    scene = log.scene[mask] if len(log.scene) else log.scene
    return dataclasses.replace(log, user=user, starts=starts, scene=scene, **kept)


def numbered_alone(log: Log) -> Log:
    """The log with names and numbers of its own rows' users, items and actions only, in the order of their names.

    A store numbers what it meets first, so that an old user's new behaviour may give another number to each item.
    """
    (users, user), (items, item), (actions, action) = (
        _named(names, column)
        for names, column in ((log.users, log.user), (log.items, log.item), (log.actions, log.action))
    )
    order = np.argsort(user, kind="stable")  # users' rows together, and each in the order that it had
    return Log(
        users=users, items=items, actions=actions, user=user[order], item=item[order], action=action[order],
        starts=np.searchsorted(user[order], np.arange(len(users) + 1)).astype(np.int64),
        seq=log.seq[order], at=log.at[order], value=log.value[order],
    )  # fmt: skip


def _named(names: Sequence[str], column: Array) -> tuple[list[str], Array]:
    """Those of the names that a column of numbers has, sorted, and the column with their places."""
    numbers, places = np.unique(column, return_inverse=True)
    present = [names[number] for number in numbers.tolist()]
    order = sorted(range(len(present)), key=present.__getitem__)
    rank = np.empty(len(present), np.int32)
    rank[order] = np.arange(len(present))
    return [present[place] for place in order], rank[places]


def learnt_users(log: Log) -> list[str]:
    """The users with a behaviour in the log, sorted."""
    return sorted(log.users[user] for user in np.unique(log.user))


def digest_of(users: list[str]) -> str:
    """Stands for a set of users without naming one."""
    return hashlib.sha256("\n".join(users).encode()).hexdigest()


def data_digest(log: Log, catalogue: Mapping[str, Item], cut: float) -> str:
    """SHA-256 of what a run learns from or is measured on: the behaviours before the cut, and the catalogue. Later
    behaviours, and users and items of these alone, change nothing.
    """
    past = numbered_alone(rows_of(log, log.at < cut))
    digest = hashlib.sha256()
    for names, column in ((past.users, past.user), (past.items, past.item), (past.actions, past.action)):
        digest.update("\n".join(names).encode(errors="surrogatepass"))
        digest.update(column.astype("<i4").tobytes())
    digest.update(past.at.astype("<f8").tobytes() + past.value.astype("<f4").tobytes())
    for _, item in sorted(catalogue.items()):
        digest.update(msgspec.json.encode(item, order="deterministic"))
    return digest.hexdigest()


def liked(log: Log) -> Array:
    """(N,) bool: at or above the user's own mean; a behaviour without a value shows liking by itself."""
    valued = ~np.isnan(log.value)
    counts = np.bincount(log.user[valued], minlength=len(log.users))
    sums = np.bincount(log.user[valued], weights=log.value[valued], minlength=len(log.users))
    means = sums / np.maximum(counts, 1)
    return np.asarray(~valued | (log.value >= means[log.user] - 1e-6))
