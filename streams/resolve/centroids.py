"""Brings the store's centroids up to its partitions and catalogue: those that are missing, or all after a change.

Which state of the catalogue the centroids are of stands in a counter, set when all were found: a run that was killed
before goes on with what is missing, or finds them all again.
"""

from __future__ import annotations

import hashlib

from sqlalchemy import Connection, Engine

from fusion.interests.centroids import (
    Key,
    closed_partitions,
    collect_centroid_garbage,
    count_partitions,
    key_of,
    partitions_at,
    write_centroids,
)
from interest.store import counters
from interest.store.sql import insert_new, writing
from interest.store.tables import counters as counter_rows


class CentroidPass:
    """Call `step` until it returns 0: each is a transaction."""

    def __init__(self, engine: Engine, encoder_id: str, template: str) -> None:
        self._engine, self._encoder, self._template = engine, encoder_id, template
        self._after: Key | None = None
        digest = hashlib.blake2b(f"{encoder_id}\0{template}".encode(), digest_size=8).hexdigest()
        self._counter = f"centroids:{digest}"
        with writing(engine) as connection:
            self._gone = collect_centroid_garbage(connection, template)
            self._state = _state_of_items(connection)
            self._changed = counters.read(connection, self._counter) != self._state

    @property
    def told(self) -> str:
        return f"; {self._gone:,} by another template removed" if self._gone else ""

    def count(self) -> int:
        with self._engine.connect() as connection:
            return count_partitions(connection, self._encoder, self._template, missing=not self._changed)

    def step(self) -> int:
        """Write some partitions' centroids; how many; 0: all are there."""
        with writing(self._engine) as connection:
            counters.read_locked(connection, counters.FORGETS)  # who forgets a user waits, then finds these rows
            page = closed_partitions(connection, self._encoder, self._template, self._after, missing=not self._changed)
            if not page:
                insert_new(connection, counter_rows, [{"name": self._counter, "value": 0}])
                mine = counter_rows.c.name == self._counter
                connection.execute(counter_rows.update().where(mine).values(value=self._state))
                return 0
            keys = [key_of(head) for head in page]
            self._after = keys[-1]
            return write_centroids(connection, self._encoder, self._template, partitions_at(connection, keys))


def _state_of_items(connection: Connection) -> int:
    """A number that grows with every change of the catalogue and of its texts' vectors; above 0."""
    return 1 + sum(counters.read(connection, name) for name in (counters.ITEMS, counters.ITEM_VECTORS))
