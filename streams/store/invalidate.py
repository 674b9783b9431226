"""Invalidates what was derived from an interest's texts once they are replaced: vectors and representations."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, delete, or_

from fusion.tables import representations, vectors
from interest.types import Interest


def delete_derived(connection: Connection, replaced: Sequence[Interest]) -> None:
    """Delete the vectors and representations derived from texts that are about to be replaced."""
    for start in range(0, len(replaced), 100):
        page = replaced[start : start + 100]
        for interest in page:
            same = and_(vectors.c.user_id == interest.user_id, vectors.c.generation == interest.generation)
            connection.execute(
                delete(vectors).where(
                    same, vectors.c.index == interest.index, vectors.c.prompt_version == interest.prompt_version
                )
            )
        firsts: dict[tuple[str, int], int] = {}
        for interest in page:
            key = (interest.user_id, interest.generation)
            firsts[key] = min(firsts.get(key, interest.index), interest.index)
        later = [
            and_(
                representations.c.user_id == user,
                representations.c.generation == generation,
                representations.c.index >= index,
            )
            for (user, generation), index in firsts.items()
        ]
        connection.execute(delete(representations).where(or_(*later)))
