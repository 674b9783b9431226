"""Users' vectors in an artifact's common space, as of every partition: columns of the store's representations.

The vector of partition k has seen the user's behaviours up to that partition's last one, whoever computes it and when.
Sums are kept beside it, from which the next partition goes on, so that one more costs its own behaviours, however long
the history. An item counts with the place that it had when its partition was written: `interestream fuse --artifact`
adds everything up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, select

from fusion.features.log import Array
from fusion.interests.pooled_rows import History
from fusion.serving.common_space import CommonSpace
from fusion.tables import representations
from interest.store.tables import partitions

Columns = dict[str, Any]
NOT_PLACED: Columns = {"common": None, "common_sums": None}


def common_columns(
    connection: Connection, common: CommonSpace, rows: Sequence[tuple[History, int]]
) -> dict[tuple[History, int], Columns]:
    """The columns of these rows (history, partition), each history's ascending; without one whose partition is gone."""
    by_history: dict[History, list[int]] = {}
    for history, index in rows:
        by_history.setdefault(history, []).append(index)
    found: dict[tuple[History, int], Columns] = {}
    for history, indexes in by_history.items():
        ends = _ends(connection, history, indexes[0])
        # where scenes are kept apart, a partition that was opened earlier may end later
        there = sorted((index for index in indexes if index in ends), key=ends.__getitem__)
        if not there:
            continue
        after, sums = _before(connection, common.artifact, history, indexes[0], ends[there[0]])
        added = common.sums(connection, history.user_id, [ends[index] for index in there], after, sums)
        for index, own in zip(there, added, strict=True):
            vector = common.vector(own).astype("<f4").tobytes()
            found[history, index] = {"common": vector, "common_sums": own.astype("<f8").tobytes()}
    return found


def _before(connection: Connection, artifact: str, history: History, first: int, end: int) -> tuple[int, Array | None]:
    """A sequence number, of `end` at most, up to which the store has sums of a partition before `first`; -1: none."""
    same = [representations.c[name] == partitions.c[name] for name in ("user_id", "generation", "index")]
    query = (
        select(partitions.c.last_seq, representations.c.common_sums)
        .join(partitions, same[0] & same[1] & same[2])
        .where(representations.c.user_id == history.user_id, representations.c.generation == history.generation)
        .where(representations.c.artifact == artifact, representations.c.common_sums.is_not(None))
        .where(representations.c.index < first, partitions.c.last_seq <= end)
        .order_by(representations.c.index.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    return (-1, None) if row is None else (row[0], np.frombuffer(row[1], "<f8"))


def _ends(connection: Connection, history: History, first: int) -> dict[int, int]:
    """By partition from `first` on, its last sequence number."""
    query = (
        select(partitions.c.index, partitions.c.last_seq)
        .where(partitions.c.user_id == history.user_id, partitions.c.generation == history.generation)
        .where(partitions.c.index >= first)
    )
    return dict(iter(connection.execute(query)))
