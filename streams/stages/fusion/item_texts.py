"""Beside the fusion stage's work: vectors of the texts of items that come into the catalogue, or change.

While no message waits, a few texts at a time, in the stage's own thread and by its own encoder. Workers that encode the
same text write the same vector once. What the catalogue says no longer, `interestream fuse` removes.
"""

from __future__ import annotations

import time

import structlog
from sqlalchemy import Connection, Engine

from fusion.interests.item_vectors import encode_items, texts_without_vectors
from fusion.interests.text_vectors import Encoder
from interest.store import counters
from streams.resolve.encoder import item_template

AT_ONCE = 16  # texts: a tenth of a second, for which a message may have to wait
REST = 9.0  # times as long as reading the catalogue took: a tenth of the time at most goes into that

log = structlog.get_logger()


class ItemTexts:
    """Call `step` whenever there is time; it says whether there is more to do. Raises InputError for a bad template."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.template = engine, item_template()
        self._left: list[str] = []
        self._seen = -1  # the catalogue's counter when it was last read
        self._next_look = 0.0

    def step(self, encoder: Encoder) -> bool:
        """Encode the next texts, or look whether the catalogue has new ones. In the thread of the encoder."""
        if not self._left and time.monotonic() >= self._next_look:
            self._look(encoder.id)
        some, self._left = self._left[:AT_ONCE], self._left[AT_ONCE:]
        if some:
            try:
                encode_items(self._engine, encoder, some, written=count_items)
            except BaseException:
                self._left = some + self._left  # the store was away: they are still to do
                raise
            if not self._left:
                log.info("item texts encoded", encoder=encoder.id)
        return bool(self._left)

    def _look(self, encoder_id: str) -> None:
        began = time.monotonic()
        with self._engine.connect() as connection:
            now = counters.read(connection, counters.ITEMS)
            if now != self._seen:
                self._left = texts_without_vectors(connection, encoder_id, self.template)
                self._seen = now
        self._next_look = time.monotonic() + REST * (time.monotonic() - began)
        if self._left:
            log.info("encoding item texts", texts=len(self._left))


def count_items(connection: Connection) -> None:
    counters.increment(connection, counters.ITEM_VECTORS)
