"""Centroids of the items that a partition's user liked and did not: mean vectors of their texts, in the store.

Beside the vectors of what a language model wrote of a partition they say, without one, what its user turned to. Liked
is what shows liking to the interest texts' claim check (`interest.facts.values.Usual`): a value at or above the user's
usual one of that action (there: of all actions together) up to the partition's close, or none at all. Every behaviour
counts once; one whose item has no text, or no vector yet, is left out. A partition's own behaviours decide, so a later
event changes nothing; items count as they read when the partition was fused, until `interestream fuse` finds that the
catalogue has changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import ColumnElement, Connection, and_, delete, func, select, tuple_

from fusion.encoders.item_text import text_key
from fusion.features.log import Array
from fusion.features.match.item_vectors import item_texts, stored_vectors
from fusion.tables import centroids
from interest.facts.values import Usual, kind_of
from interest.store.sql import behaviors_inside, of_scene, partition_of, read_items, upsert
from interest.store.tables import behaviors, partitions
from interest.types import Behavior, Partition

CHUNK = 64  # partitions a transaction: 3,200 behaviours at 50 each, a tenth of a second
KEY = ("user_id", "generation", "index")
KEY_COLUMNS = [partitions.c[name] for name in KEY]

Key = tuple[str, int, int]  # of a partition: user, generation, index


class Centroids(NamedTuple):
    """Those of one partition, float16, little endian, (d,); None: nothing of the kind has a vector."""

    encoder: str
    liked: bytes | None
    disliked: bytes | None


def closed_partitions(
    connection: Connection, encoder_id: str, template: str, after: Key | None, *, missing: bool, most: int = CHUNK
) -> list[Partition]:
    """The next closed partitions after a key, in the key's order: all, or those that are missing centroids."""
    query = select(partitions).order_by(*KEY_COLUMNS).limit(most)
    if after is not None:
        query = query.where(tuple_(*KEY_COLUMNS) > tuple_(*after))
    if missing:
        query = query.outerjoin(centroids, _same(encoder_id, template)).where(centroids.c.user_id.is_(None))
    return [partition_of(row) for row in connection.execute(query).mappings()]


def count_partitions(connection: Connection, encoder_id: str, template: str, *, missing: bool) -> int:
    """How many there are for `closed_partitions`."""
    query = select(func.count()).select_from(partitions)
    if missing:
        joined = partitions.outerjoin(centroids, _same(encoder_id, template))
        query = select(func.count()).select_from(joined).where(centroids.c.user_id.is_(None))
    return connection.scalar(query) or 0


def partitions_at(connection: Connection, keys: Iterable[Key]) -> list[Partition]:
    """The closed partitions with these keys that the store has, in order.

    On PostgreSQL they are held until the transaction ends, so that who forgets a user meanwhile waits and then finds
    the rows made of them; SQLite has one writer.
    """
    found: list[Partition] = []
    distinct = sorted(set(keys))
    for start in range(0, len(distinct), CHUNK):
        query = select(partitions).where(tuple_(*KEY_COLUMNS).in_(distinct[start : start + CHUNK]))
        rows = connection.execute(query.order_by(*KEY_COLUMNS).with_for_update(read=True)).mappings()
        found += [partition_of(row) for row in rows]
    return found


def items_of(connection: Connection, heads: Iterable[Partition]) -> set[str]:
    """The items of these partitions' behaviours."""
    return {event.item_id for head in heads for event in _events(connection, head)}


def write_centroids(connection: Connection, encoder_id: str, template: str, heads: Sequence[Partition]) -> int:
    """Write the centroids of closed partitions, over those that are there; return how many partitions."""
    events = {key_of(head): _events(connection, head) for head in heads}
    found = _vectors(connection, encoder_id, template, {event.item_id for own in events.values() for event in own})
    rows: list[dict[str, Any]] = []
    for key, usual in _usual(connection, heads).items():
        liked = _liked(events[key], usual)
        told = [(found.get(event.item_id), likes) for event, likes in zip(events[key], liked, strict=True)]
        sides = {
            side: _mean([vector for vector, likes in told if vector is not None and likes == which])
            for side, which in (("liked", True), ("disliked", False))
        }
        rows.append(dict(zip(KEY, key, strict=True)) | {"encoder": encoder_id, "template": template} | sides)
    upsert(connection, centroids, rows)
    return len(rows)


def read_centroids(connection: Connection, key: Key, encoder_id: str | None = None) -> Centroids | None:
    """A partition's centroids, by this encoder or by the first that the store has any by."""
    query = select(*(centroids.c[name] for name in Centroids._fields))
    query = query.where(*(centroids.c[name] == own for name, own in zip(KEY, key, strict=True)))
    if encoder_id is not None:
        query = query.where(centroids.c.encoder == encoder_id)
    row = connection.execute(query.order_by(centroids.c.encoder, centroids.c.template).limit(1)).first()
    return None if row is None else Centroids(*row)


def collect_centroid_garbage(connection: Connection, template: str) -> int:
    """Remove the centroids by other templates, whose items' vectors go too; return how many."""
    return connection.execute(delete(centroids).where(centroids.c.template != template)).rowcount


def _same(encoder_id: str, template: str) -> Any:
    own = (centroids.c[name] == partitions.c[name] for name in KEY)
    return and_(*own, centroids.c.encoder == encoder_id, centroids.c.template == template)


def key_of(head: Partition) -> Key:
    return (head.user_id, head.generation, head.index)


def _events(connection: Connection, head: Partition) -> list[Behavior]:
    return [behavior for _, behavior in behaviors_inside(connection, head)]


def _scene(head: Partition) -> list[ColumnElement[bool]]:
    """That a behaviour is of the partition's scene, where it is of one."""
    return [] if head.scene is None else [of_scene(head.scene)]


def _vectors(connection: Connection, encoder_id: str, template: str, items: set[str]) -> dict[str, Array]:
    """By item, the vector of its text, (d,) float16, where there are both."""
    catalogue = read_items(connection, sorted(items))
    ids = list(catalogue)
    texts = zip(ids, item_texts(connection, template, ids, catalogue), strict=True)
    keys = {item: text_key(text) for item, text in texts if text}
    found = stored_vectors(connection, encoder_id, list(keys.values()))
    return {item: found[key] for item, key in keys.items() if key in found}


def _usual(connection: Connection, heads: Sequence[Partition]) -> dict[Key, dict[str, Usual]]:
    """By partition and action, what its user usually gave up to its close, in its scene where it is of one; every
    earlier value is read once.
    """
    value = behaviors.c.value
    sums = select(behaviors.c.action, func.count(value), func.sum(value), func.max(value)).group_by(behaviors.c.action)
    found: dict[Key, dict[str, Usual]] = {}
    own, read_to, by_action = ("", ""), -1, dict[str, tuple[int, float, float]]()
    for head in sorted(heads, key=lambda head: (head.user_id, head.scene or "", head.generation, head.index)):
        if (head.user_id, head.scene or "") != own or head.last_seq < read_to:
            own, read_to, by_action = (head.user_id, head.scene or ""), -1, {}
        inside = (behaviors.c.user_id == head.user_id, behaviors.c.seq > read_to, behaviors.c.seq <= head.last_seq)
        for action, count, total, most in connection.execute(
            sums.where(*inside, *_scene(head)).order_by(behaviors.c.action)
        ):
            if count:
                before = by_action.get(action, (0, 0.0, 0.0))
                by_action[action] = (before[0] + count, before[1] + total, max(before[2], most))
        read_to = head.last_seq
        found[key_of(head)] = {action: Usual.of(*sums_) for action, sums_ in by_action.items()}
    return found


def _liked(events: Sequence[Behavior], usual: Mapping[str, Usual]) -> list[bool]:
    values: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.value is not None:
            values[event.action].append(event.value)
    kinds = {action: kind_of(action, own, usual[action].most) for action, own in values.items()}
    return [event.value is None or usual[event.action].supports(event.value, kinds[event.action]) for event in events]


def _mean(vectors: Sequence[Array]) -> bytes | None:
    return np.mean(np.stack(vectors), axis=0, dtype=np.float64).astype("<f2").tobytes() if vectors else None
