"""Vectors of items that the user brings, in the store: one modality's, by item, in place of those that were there."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from sqlalchemy import Connection, Engine

from fusion.features.log import Array
from fusion.features.modalities import widths_in
from fusion.tables import item_modalities
from interest.errors import InputError
from interest.store.sql import upsert, writing


def bring(
    engine: Engine,
    modality: str,
    width: int,
    chunks: Iterable[tuple[list[str], Array]],
    *,
    written: Callable[[Connection], None] = lambda _: None,
    advance: Callable[[int], None] = lambda _: None,
) -> int:
    """Write chunks of items and their vectors (n, width), a transaction each; return how many.

    written: is called at the end of each. Raises InputError where the store has vectors of that name and another width:
    models have learnt those, and two encoders' vectors mean different things.
    """
    with engine.connect() as connection:
        held = widths_in(connection).get(modality, width)
    if held != width:
        raise InputError(
            f"--item-vectors {modality}: the vectors are {width} wide, and the store's of that name {held}; give those "
            "of another encoder another name"
        )
    done = 0
    for items, vectors in chunks:
        rows = [
            {"modality": modality, "item_id": item, "vector": vector.astype("<f2").tobytes()}
            for item, vector in zip(items, np.asarray(vectors), strict=True)
        ]
        with writing(engine) as connection:
            upsert(connection, item_modalities, rows)
            written(connection)
        done += len(rows)
        advance(len(rows))
    return done
