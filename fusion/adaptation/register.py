"""Adaptations in the store: which model learnt from which user, so that forgetting a user names it.

A user's rows go with the user; of an adaptation then stays only how many of its users were forgotten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, delete, select, update

from fusion.tables import adaptation_users, adaptations
from interest.errors import InputError
from interest.store.sql import insert_new, writing
from interest.store.tables import behaviors

AT_ONCE = 5_000  # rows of one statement


class Adapted(msgspec.Struct, frozen=True):
    """A model that learnt from a store."""

    id: str  # its record's
    folder: str
    users: int  # it learnt from
    forgotten: int  # of them, since


def note_adaptation(engine: Engine, id_: str, folder: Path, base: str, cut: float, users: Sequence[str]) -> None:
    """Before anything is learnt: that the model of this folder learns from these users.

    What was noted of an earlier model in the folder goes; models by the same settings in other folders stay. A run that
    goes on notes the same again. Raises InputError where a user was forgotten since the log was read; nothing is noted.
    """
    shown = str(folder.resolve())
    id_ = f"{id_}@{hashlib.sha256(shown.encode()).hexdigest()[:12]}"
    with writing(engine) as connection:
        known = select(adaptations.c.id).where(adaptations.c.folder == shown)
        old = list(connection.scalars(known))
        for table, key in ((adaptation_users, adaptation_users.c.adaptation), (adaptations, adaptations.c.id)):
            connection.execute(delete(table).where(key.in_(old)))
        row = {"id": id_, "folder": shown, "base": base, "cut": cut, "users": len(users), "forgotten": 0}
        insert_new(connection, adaptations, [row])
        for start in range(0, len(users), AT_ONCE):
            some = users[start : start + AT_ONCE]
            there = select(behaviors.c.user_id).where(behaviors.c.user_id.in_(some)).distinct()
            if len(set(connection.scalars(there))) < len(some):
                raise InputError("a user was forgotten after the log was read; run the same command again")
            rows = [{"user_id": user, "adaptation": id_} for user in some]
            insert_new(connection, adaptation_users, rows)


def learnt_from(connection: Connection, user_id: str) -> list[Adapted]:
    """The adapted models that learnt from the user, by folder."""
    theirs = select(adaptation_users.c.adaptation).where(adaptation_users.c.user_id == user_id)
    return _read(connection, adaptations.c.id.in_(theirs))


def read_adaptations(connection: Connection) -> list[Adapted]:
    """Every model that was adapted to this store, by folder."""
    return _read(connection)


def forgotten_of(engine: Engine, id_: str, folder: Path) -> int:
    """How many of the users that the model of this folder learnt from were forgotten since."""
    with engine.connect() as connection:
        found = _read(connection, adaptations.c.folder == str(folder.resolve()))
    return sum(one.forgotten for one in found if one.id == id_)


def _read(connection: Connection, *which: ColumnElement[bool]) -> list[Adapted]:
    named = (adaptations.c[name] for name in ("id", "folder", "users", "forgotten"))
    rows = connection.execute(select(*named).where(*which).order_by(adaptations.c.folder))
    return [Adapted(id_.partition("@")[0], *more) for id_, *more in rows]


def count_forgotten(connection: Connection, user_id: str) -> None:
    """One more forgotten user for every adaptation that learnt from this one, whose rows are about to go."""
    theirs = select(adaptation_users.c.adaptation).where(adaptation_users.c.user_id == user_id)
    connection.execute(
        update(adaptations).where(adaptations.c.id.in_(theirs)).values(forgotten=adaptations.c.forgotten + 1)
    )
