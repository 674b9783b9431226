"""Where the store stands for one user, in one statement: what a held side of the user is checked against."""

from __future__ import annotations

import msgspec
from sqlalchemy import BindParameter, Connection, bindparam, func, select

from fusion.serving.known_items import ItemCounts
from fusion.serving.live import Head
from interest.store.counters import FORGETS, ITEM_VECTORS, ITEMS
from interest.store.tables import behaviors, counters, users
from interest.types import User
from streams.store.tables import offsets


def read_head(connection: Connection, user_id: str) -> Head:
    """One look, six index seeks: the user's newest number and profile, the store's counters and its clock."""
    newest, attributes, forgets, catalogue, vectors, at = connection.execute(_HEAD, {"user": user_id}).one()
    return Head(
        newest=-1 if newest is None else newest,
        profile=None if attributes is None else User(user_id=user_id, attributes=msgspec.json.decode(attributes)),
        forgets=forgets or 0,
        items=ItemCounts(catalogue or 0, vectors or 0),
        at=at,
    )


_USER: BindParameter[str] = bindparam("user")
_HEAD = select(
    select(func.max(behaviors.c.seq)).where(behaviors.c.user_id == _USER).scalar_subquery(),
    select(users.c.attributes).where(users.c.user_id == _USER).scalar_subquery(),
    select(counters.c.value).where(counters.c.name == FORGETS).scalar_subquery(),
    select(counters.c.value).where(counters.c.name == ITEMS).scalar_subquery(),
    select(counters.c.value).where(counters.c.name == ITEM_VECTORS).scalar_subquery(),
    select(func.max(offsets.c.watermark)).scalar_subquery(),
)
