"""Fills the behaviour bank with the store's new behaviours, the same way embedded and in the stream.

All behaviours count, whether their partition is closed or not and whether it ever gets an interest. Each user's
watermark is in the store (fusion/bank/watermarks.py); this file decides how much is done at once and what a crash,
another worker or a forgotten user in between means.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Connection, Engine, select

from fusion.bank.texts import span_texts
from fusion.bank.vectors import BankEncoder, fill
from fusion.bank.watermarks import Span, read_page, split_spans, write_watermarks
from interest.store import counters
from interest.store.sql import writing
from streams.store.tables import offsets

USERS = 5_000  # looked at together
BEHAVIORS = 1_000  # filled before the watermarks are moved: what is looked at again after a crash

Accepted = tuple[tuple[str, int, int], ...]


class FillPass:
    """One pass over the users, a step at a time; every step may be repeated.

    is_mine: whether a user is this worker's; others are left out. wait: for texts that other fillers have claimed;
    without, their users' watermarks stay and another pass finds them.
    """

    def __init__(
        self,
        engine: Engine,
        encoder: BankEncoder,
        is_mine: Callable[[str], bool] = lambda _: True,
        *,
        wait: bool = False,
    ) -> None:
        self._engine, self._encoder, self._is_mine, self._wait = engine, encoder, is_mine, wait
        self._page_start = ""  # where the current page begins
        self._next: str | None = ""
        self._spans: list[Span] = []
        self._forgets = 0  # users forgotten when it was read
        self._removals = 0  # removals from banks when the pass began
        self.behaviors = self.asked = self.computed = 0
        self.scan_s = 0.0  # finding out what is new
        self.is_complete = True  # no watermarks were left for another pass

    @property
    def is_done(self) -> bool:
        return not self._spans and self._next is None

    def step(self) -> int:
        """Look at the next users, or fill some of what was found; return how many behaviours that were.

        1. Read the behaviours' texts. 2. Write the vectors that are missing. 3. Move the watermarks: not where texts
        are still missing, and not if a user was forgotten since the page was read, who may be among these, nor if
        anything was removed from a bank since the pass began: then it starts again.
        """
        if not self._spans:
            self._read_next_page()
            return 0
        spans, rest = split_spans(self._spans, BEHAVIORS)
        recipe = self._encoder.recipe
        with self._engine.connect() as connection:
            texts = span_texts(connection, recipe.template, spans)  # 1
        filled = fill(self._engine, self._encoder, texts, wait=self._wait)  # 2
        self.asked, self.computed = self.asked + filled.asked, self.computed + filled.computed
        with writing(self._engine) as connection:
            forgotten = counters.read_locked(connection, counters.FORGETS) != self._forgets
            removed = counters.read_locked(connection, counters.REMOVALS) != self._removals
            if not forgotten and not removed and not filled.left:
                write_watermarks(connection, recipe.id, spans)  # 3
        if forgotten or removed:
            self._spans, self._next = [], "" if removed else self._page_start
            return 0
        size = sum(span.size for span in spans)
        self.behaviors += size
        self.is_complete = self.is_complete and not filled.left
        self._spans = rest
        return size

    def _read_next_page(self) -> None:
        begin = self._next
        if begin is None:
            return
        start = time.monotonic()
        with self._engine.connect() as connection:
            forgets = counters.read(
                connection, counters.FORGETS
            )  # read first, so that a user forgotten later is noticed
            removals = counters.read(connection, counters.REMOVALS)
            if removals != self._removals:
                begin, self._removals = "", removals
            page = read_page(connection, self._encoder.recipe.id, begin, USERS)
        self._page_start, self._next, self._forgets = begin, page.after, forgets
        self._spans = [span for span in page.spans if self._is_mine(span.user_id)]
        self.scan_s += time.monotonic() - start


def accepted_counts(connection: Connection) -> Accepted:
    """By source and partition, the behaviours that came in so far, and how often something was removed from a bank.

    While it stays the same, nothing is new to a bank that was filled.
    """
    query = select(offsets.c.source, offsets.c.partition, offsets.c.accepted)
    counts = sorted((source, partition, count) for source, partition, count in connection.execute(query))
    removals = counters.read(connection, counters.REMOVALS)
    return (*counts, ("", 0, removals)) if removals else tuple(counts)
