"""Beside the fusion stage's work: the behaviour bank is filled with what is new of this worker's users.

It has a thread of its own, so that no LLM, however slow, keeps messages, announcements or the drain waiting; what is
acknowledged says nothing of the bank. Two workers that meet the same text, or have the same user while a Kafka
partition changes hands, share the work by the bank's claims.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog

from streams.kafka.partitioner import partition_of
from streams.resolve.bank import open_bank
from streams.resolve.bank_fill import Accepted, FillPass, accepted_counts
from streams.stages.retry import RetryPolicy
from streams.stages.stage import Context

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fusion.bank.vectors import BankEncoder

REST = 9.0  # times as long as looking for what is new took: a tenth of the time at most goes into that

R = TypeVar("R")
log = structlog.get_logger()


class _StoppedError(Exception):
    """The worker stops: the texts in flight are given back, for whoever comes next."""


class BankFiller:
    """Call `open`, `start`, now and then `check`, and `end`; without an LLM in the settings none of them does anything.

    partitions: the Kafka partitions whose users are this worker's now.
    """

    def __init__(self, context: Context, stage: str, partitions: Callable[[], list[int]]) -> None:
        self._context, self._partitions = context, partitions
        self._retry = RetryPolicy(context, stage)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bank")
        self._lower: _InterruptibleLayers | None = None
        self._work: asyncio.Task[None] | None = None
        self._looked_s = 0.0  # the last time
        self._behind_since: float | None = None  # monotonic
        context.metrics.bank_behind.set_function(self._behind_s)  # at each scrape: an LLM that hangs is seen too

    async def open(self) -> None:
        """Load the LLM. Raises InputError or ArtifactError."""
        lower = await self._in_thread(partial(open_bank, self._context.settings.bank))
        self._lower = None if lower is None else _InterruptibleLayers(lower)

    def start(self, stop: asyncio.Event) -> None:
        """Fill what is new, and look again every `poll_s` (less often where that takes long), until `stop`."""
        if self._lower is not None:
            self._work = asyncio.create_task(self._run(self._lower, stop), name="fusion-bank")

    def check(self) -> None:
        """Raise what has ended the filling, if anything."""
        if self._work is not None and self._work.done():
            self._work.result()

    async def end(self, timeout_s: float) -> None:
        """Wait so long for the batch of texts in flight; its thread ends with it in any case."""
        if self._work is not None:
            await asyncio.wait({self._work}, timeout=max(0.0, timeout_s))
            self._work.cancel()
            await asyncio.wait({self._work})
            if not self._work.cancelled() and (error := self._work.exception()):
                log.warning("filling the bank ended", error=str(error))
        self._thread.shutdown(wait=False)

    async def _run(self, lower: _InterruptibleLayers, stop: asyncio.Event) -> None:
        done: tuple[frozenset[int], Accepted] | None = None
        ending = asyncio.create_task(stop.wait())
        ending.add_done_callback(lambda _: lower.interrupt())
        try:
            while not stop.is_set():
                mine = frozenset(self._partitions())
                now = (mine, await self._retry.store(self._accepted, "cannot read what came in"))
                if not mine:
                    self._behind_since = None
                elif now != done:
                    self._behind_since = self._behind_since or time.monotonic()
                    if await self._fill(lower, mine, stop):
                        done, self._behind_since = now, None
                rest = max(self._context.settings.fusion.poll_s, REST * self._looked_s)
                await asyncio.wait({ending}, timeout=rest)
        except _StoppedError:
            return
        finally:
            ending.cancel()
            lower.interrupt()
            self._behind_since = None

    async def _fill(self, lower: _InterruptibleLayers, mine: frozenset[int], stop: asyncio.Event) -> bool:
        """One walk over these partitions' users; whether nothing is left to another."""
        count, began = self._context.settings.kafka.partitions, time.monotonic()
        fill_pass = FillPass(self._context.engine, lower, lambda user: partition_of(user, count) in mine)
        while not fill_pass.is_done:
            if stop.is_set() or mine != frozenset(self._partitions()):
                return False
            size = await self._retry.storing(partial(self._in_thread, fill_pass.step), "cannot fill the bank")
            self._context.metrics.banked.inc(size)
        self._looked_s = fill_pass.scan_s
        if fill_pass.behaviors:
            log.info(
                "bank filled", bank=lower.recipe.id, behaviors=fill_pass.behaviors, texts=fill_pass.asked,
                computed=fill_pass.computed, whole=fill_pass.is_complete, took_s=round(time.monotonic() - began, 1),
            )  # fmt: skip
        return fill_pass.is_complete

    def _behind_s(self) -> float:
        """How long behaviours that the bank may lack have been known of."""
        return 0.0 if self._behind_since is None else time.monotonic() - self._behind_since

    def _accepted(self) -> Accepted:
        with self._context.engine.connect() as connection:
            return accepted_counts(connection)

    async def _in_thread(self, call: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


class _InterruptibleLayers:
    """Low layers that can be stopped between two batches of texts."""

    def __init__(self, lower: BankEncoder) -> None:
        self.recipe, self.width, self.batch_texts, self._lower = lower.recipe, lower.width, lower.batch_texts, lower
        self._interrupted = False

    def interrupt(self) -> None:
        self._interrupted = True

    def __call__(self, texts: Sequence[str], advance: Callable[[int], None], /) -> NDArray[np.float32]:
        def go_on(count: int) -> None:
            if self._interrupted:
                raise _StoppedError
            advance(count)

        go_on(0)
        return self._lower(texts, go_on)
