"""Names that a log of offers knew of its users (streams/files/entities.py): each is a behaviour of a user once, ever.

A file names them again, and so does the next day's. Which of them a user has is read from the store, and kept in memory
for as long as the user's cache is. Their `event_id` tells them from what a user searched or paid for in another log.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select

from interest.store.tables import behaviors
from interest.types import KNOWN_ACTIONS, Behavior

NAME_BYTES = 150  # of one name in memory, about
_USERS_A_QUERY = 500


def is_name(behavior: Behavior) -> bool:
    """Whether it is a name and not an event; its event_id is the name's own id."""
    return behavior.event_id == behavior.item_id and behavior.action in KNOWN_ACTIONS


class KnownNames:
    """Names by user, of two generations, as the caches are held."""

    def __init__(self) -> None:
        self._young: dict[str, set[str]] = {}
        self._old: dict[str, set[str]] = {}

    def let_go(self) -> None:
        """Forget the users that nothing was asked of since the last call."""
        self._old, self._young = self._young, {}

    def missing(self, batch: Iterable[Behavior]) -> set[str]:
        """The users with names in a batch of whom memory knows nothing; of the others it is ready."""
        users = {one.user_id for one in batch if one.event_id is not None and is_name(one)} - self._young.keys()
        self._young.update({user: self._old.pop(user) for user in users & self._old.keys()})
        return users - self._young.keys()

    def restore(self, connection: Connection, users: Iterable[str]) -> int:
        """Read the users' names from the store; return how many they are."""
        asked = sorted(users)
        for start in range(0, len(asked), _USERS_A_QUERY):
            some = asked[start : start + _USERS_A_QUERY]
            self._young.update({user: set() for user in some})
            held = select(behaviors.c.user_id, behaviors.c.item_id)
            held = held.where(behaviors.c.user_id.in_(some), behaviors.c.action.in_(KNOWN_ACTIONS))
            for user, item in connection.execute(held):
                self._young[user].add(item)
        return sum(len(self._young[user]) for user in asked)

    def add(self, name: Behavior) -> bool:
        """Whether the name is new to its user, whose names are in memory."""
        names = self._young[name.user_id]
        if name.item_id in names:
            return False
        names.add(name.item_id)
        return True
