"""glibc's allocator, told to keep one arena instead of one for each thread."""

from __future__ import annotations

import contextlib
import ctypes

_M_ARENA_MAX = -8  # malloc.h


def limit_to_one_arena() -> None:
    """Let all threads allocate from one arena; without glibc nothing happens.

    A worker hands its batches from thread to thread, and an arena keeps the pages of what another thread has freed:
    without this a worker held a third more (benchmarks/agent_memory.py). To be called before threads start.
    """
    with contextlib.suppress(OSError, AttributeError):  # no such library, no such function
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
