"""Runs a coroutine so that Ctrl-C ends it in order: cancelled, its clean-up run, and then reported as usual."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; of tasks that failed together, the first one's error is raised.

    SIGINT cancels `work`, and the handler that was there before is called once it has ended. An exception raised by a
    handler while the loop runs would be swallowed where it meets asyncio's transports, and the run would go on.
    """
    before = signal.getsignal(signal.SIGINT)
    handles = threading.current_thread() is threading.main_thread() and callable(before)
    interrupted = False

    async def cancellable() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            task.cancel()

        if handles:
            loop.add_signal_handler(signal.SIGINT, interrupt)
        return await work

    try:
        return asyncio.run(cancellable())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    except asyncio.CancelledError:
        if not interrupted:
            raise
        assert callable(before)
        before(signal.SIGINT, None)  # raises, as a rule
        raise
    finally:
        if handles:
            signal.signal(signal.SIGINT, before)
