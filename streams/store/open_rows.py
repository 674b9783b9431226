"""Which of a user's rows are in no partition yet: those of the open cache, or of the caches of all their scenes."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from interest.store.sql import of_scene
from interest.store.tables import behaviors, partitions
from interest.types import Partition

LastOfScenes = dict[str | None, int]  # the last place of closed partitions, by scene; under None: of all scenes


def last_of_scenes(closed: Iterable[Partition]) -> LastOfScenes:
    last: LastOfScenes = {}
    for one in closed:
        last[one.scene] = max(last.get(one.scene, -1), one.last_seq)
    return last


def read_last_of_scenes(connection: Connection, user_id: str) -> LastOfScenes:
    """In the user's newest generation."""
    of_user = partitions.c.user_id == user_id
    generation = select(func.max(partitions.c.generation)).where(of_user).scalar_subquery()
    query = select(partitions.c.scene, func.max(partitions.c.last_seq)).where(
        of_user, partitions.c.generation == generation
    )
    return {scene: int(last) for scene, last in connection.execute(query.group_by(partitions.c.scene))}


def still_open(last: LastOfScenes) -> ColumnElement[bool]:
    """Whether a row of `behaviors`, of the user whose closed partitions end so, is in none of them."""
    if None in last or not last:
        return behaviors.c.seq > last.get(None, -1)
    scenes = {scene: end for scene, end in last.items() if scene is not None}
    new = func.coalesce(behaviors.c.scene, "").not_in(scenes)
    return or_(new, *(and_(of_scene(scene), behaviors.c.seq > end) for scene, end in scenes.items()))
