"""Vectors of items that the user brings, in the store: one modality's, by item, in place of those that were there; and
how many of the store's items they are of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from sqlalchemy import Connection, Engine, delete, select

from fusion.features.log import Array
from fusion.features.modalities import widths_in
from fusion.tables import item_modalities
from interest.errors import InputError
from interest.store import counters
from interest.store.sql import upsert, writing
from interest.store.tables import behaviors
from interest.store.tables import items as catalogue
from interest.types import KNOWN_ACTIONS


def bring(
    engine: Engine,
    modality: str,
    width: int,
    chunks: Iterable[tuple[list[str], Array]],
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> int:
    """Write chunks of items and their vectors (n, width), a transaction each; return how many.

    Raises InputError as `check_width` does.
    """
    with engine.connect() as connection:
        check_width(connection, modality, width)
    done = 0
    for items, vectors in chunks:
        rows = [
            {"modality": modality, "item_id": item, "vector": vector.astype("<f2").tobytes()}
            for item, vector in zip(items, np.asarray(vectors), strict=True)
        ]
        with writing(engine) as connection:
            upsert(connection, item_modalities, rows)
            counters.increment(connection, counters.ITEMS)  # scorers read items again whose vectors may be others now
        done += len(rows)
        advance(len(rows))
    return done


def check_width(connection: Connection, modality: str, width: int) -> None:
    """Raises InputError where the store has vectors of that name and another width: models have learnt those, and two
    encoders' vectors mean different things.
    """
    held = widths_in(connection).get(modality, width)
    if held != width:
        raise InputError(
            f"--item-vectors {modality}: the vectors are {width} wide, and the store's of that name {held}; give those "
            f"of another encoder another name, or remove the store's with `fuse --drop-item-vectors {modality}`"
        )


def known_items(connection: Connection, among: set[str]) -> tuple[str, set[str]]:
    """Where the store knows items from, and their ids: its catalogue, or its log where the catalogue has none of
    `among`.
    """
    listed = set(connection.scalars(select(catalogue.c.item_id)))
    if listed & among:
        return "catalogue", listed
    met = select(behaviors.c.item_id).where(behaviors.c.action.not_in(KNOWN_ACTIONS)).distinct()
    logged = set(connection.scalars(met))
    return ("log", logged) if logged & among or not listed else ("catalogue", listed)


def items_with(connection: Connection, modality: str) -> set[str]:
    """The items that have a vector of a modality in the store."""
    return set(connection.scalars(select(item_modalities.c.item_id).where(item_modalities.c.modality == modality)))


def drop(engine: Engine, modality: str) -> int:
    """Remove a modality's vectors from the store; return how many. Raises InputError where it has none."""
    with writing(engine) as connection:
        gone = connection.execute(delete(item_modalities).where(item_modalities.c.modality == modality)).rowcount
        if not gone:
            held = ", ".join(widths_in(connection)) or "none"
            raise InputError(
                f"--drop-item-vectors {modality}: the store has no vectors that --item-vectors brought by this name; "
                f"it has {held}"
            )
        counters.increment(connection, counters.ITEMS)
    return gone
