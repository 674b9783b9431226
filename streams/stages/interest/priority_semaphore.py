"""A number of places that are given to the oldest work first, so that the head of the line is finished first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class PrioritySemaphore:
    """Like a semaphore, with an order: of those who wait, the least `order` is next."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = itertools.count()  # equal orders: first come, first served
        self._closed = False

    @asynccontextmanager
    async def acquire(self, order: int) -> AsyncIterator[None]:
        """Wait for a place, and have it for the block."""
        await self._enter(order)
        try:
            yield
        finally:
            self._leave()

    def close(self) -> None:
        """Give nobody a place until `open`."""
        self._closed = True

    def open(self) -> None:
        self._closed = False
        self._give()

    async def _enter(self, order: int) -> None:
        if self._free and not self._closed:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (order, next(self._count), place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # it was given a place, and cannot use it
                self._leave()
            raise

    def _leave(self) -> None:
        self._free += 1
        self._give()

    def _give(self) -> None:
        while self._free and self._waiting and not self._closed:
            _, _, place = heapq.heappop(self._waiting)
            if not place.done():
                self._free -= 1
                place.set_result(None)
