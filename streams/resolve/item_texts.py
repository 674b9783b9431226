"""Brings the store's vectors of items' texts up to date with the catalogue."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from streams.resolve.encoder import EncoderWhenNeeded, item_template

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

Shown = Callable[[str, int | None, str], AbstractContextManager[Callable[[int], None]]]
EVERY_S = 1.0


def encode_catalogue(engine: Engine, encoder: EncoderWhenNeeded, shown: Shown) -> int:
    """Encode the texts that have no vector by this encoder; return how many. What was encoded stays, if it stops."""
    from fusion.interests.item_vectors import encode_items, texts_without_vectors
    from interest.store import counters

    def count(connection: Connection) -> None:
        counters.increment(connection, counters.ITEM_VECTORS)

    with engine.connect() as connection:
        texts = texts_without_vectors(connection, encoder.id, item_template())
    if texts:
        with shown("Encoding items", len(texts), "texts") as advance:
            encode_items(engine, encoder, texts, advance, written=count)
    return len(texts)


def await_catalogue(engine: Engine, encoder: str) -> None:
    """Return when another process has encoded all texts by this encoder."""
    from fusion.interests.item_vectors import texts_without_vectors

    while True:
        with engine.connect() as connection:
            if not texts_without_vectors(connection, encoder, item_template()):
                return
        time.sleep(EVERY_S)
