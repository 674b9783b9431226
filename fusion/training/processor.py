"""How training uses the processor's memory: what glibc does with what a step has freed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# malloc.h: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
KEEP_FREED = ((-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 1 << 29))
RETURN_EVERY = 16  # steps: batches of ever other sizes leave holes that the next one's tensors do not fit into


@contextmanager
def fast_cpu() -> Iterator[None]:
    """Freed memory is kept for the next step, and given back at the end.

    glibc gives tensors above 32 MB back to the system at every step: keeping them saves 10 to 25 % of a step at batches
    of 4,096 and nothing at 1,024, whose tensors are smaller. mallopt does what the MALLOC_* environment variables do,
    without starting the process again; it stays set.

    Matrix products stay float32. In bfloat16 (`torch.set_float32_matmul_precision("medium")`) oneDNN compiles and keeps
    a kernel of 3 MB for every shape it meets, and batches of distinct items and packed histories have a new shape at
    almost every step: a run grew by 300 MB an epoch, and small products took many times as long.
    """
    libc = _libc()
    if libc is not None:
        for option, value in KEEP_FREED:
            libc.mallopt(option, value)
    return_freed()
    try:
        yield
    finally:
        return_freed()


def return_freed(step: int = 0) -> None:
    """Give the pages of all freed memory back to the system, those between held ones too; without glibc, nothing.

    step: of a loop, which does so at every RETURN_EVERY-th.
    """
    if step % RETURN_EVERY == 0 and (libc := _libc()) is not None:
        libc.malloc_trim(0)


def _libc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
