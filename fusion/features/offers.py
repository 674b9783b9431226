"""Offers that nobody took: what training learns from beside behaviours, and what no history and no partition has.

The store keeps an offer with the number of the user's behaviours before it (`offers.seq`). Here the log's behaviours
and the offers become one log, in which an offer lies behind the behaviours it came after: item statistics and samples
count both, and the pasts of moments (fusion/features/impressions.py) hold behaviours only.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from sqlalchemy import Connection, select

from fusion.features.log import Array, Log
from interest.store.tables import offers
from interest.types import OFFERED


def with_offers(connection: Connection, log: Log) -> Log:
    """The log with the store's offers among its behaviours; the log itself where the store has none."""
    columns = (offers.c.user_id, offers.c.seq, offers.c.item_id, offers.c.at, offers.c.value, offers.c.scene)
    found = connection.execute(select(*columns).order_by(offers.c.user_id, offers.c.seq, offers.c.at)).all()
    if not found:
        return log
    users, items, at, scenes = list(log.users), list(log.items), [row.at for row in found], list(log.scenes)
    user, item = _numbers(users, [row.user_id for row in found]), _numbers(items, [row.item_id for row in found])
    scene = _numbers(scenes, [row.scene for row in found if row.scene])
    own_scene = np.full(len(found), -1, np.int32)
    own_scene[[place for place, row in enumerate(found) if row.scene]] = scene
    many = len(found)
    merged = {
        "user": (log.user, user),
        "item": (log.item, item),
        "action": (log.action, np.full(many, len(log.actions), np.int32)),
        "seq": (log.seq, np.array([row.seq for row in found], np.int64)),
        "at": (log.at, np.array(at, np.float64)),
        "value": (log.value, np.array([row.value for row in found], np.float32)),
        "scene": (log.scene if len(log.scene) else np.full(log.size, -1, np.int32), own_scene),
        "offer": (np.zeros(log.size, bool), np.ones(many, bool)),
    }
    whole = {name: np.concatenate(parts) for name, parts in merged.items()}
    # behind the behaviour of the number before its own, in order of time among themselves
    order = np.lexsort((whole["at"] * whole["offer"], ~whole["offer"], whole["seq"], whole["user"]))
    whole = {name: column[order] for name, column in whole.items()}
    return dataclasses.replace(
        log,
        users=users,
        items=items,
        actions=[*log.actions, OFFERED],
        scenes=scenes,
        starts=np.searchsorted(whole["user"], np.arange(len(users) + 1)).astype(np.int64),
        **whole,
    )


def _numbers(names: list[str], wanted: list[str]) -> Array:
    """Their places among the names, to which new ones are added."""
    place = {name: number for number, name in enumerate(names)}
    out = np.array([place.setdefault(name, len(place)) for name in wanted], np.int32)
    names += list(place)[len(names) :]
    return out
