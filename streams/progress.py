"""Progress of long jobs: a bar on a terminal, a line every few seconds elsewhere (logs, CI)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY_S = 5.0


@contextmanager
def progress(title: str, total: int | None, *, unit: str = "", done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a job's progress on standard error; yields `advance(n)`, to be called with newly done units.

    `done` counts what an earlier, interrupted run had finished; it is shown but not taken for speed.
    """
    if sys.stderr.isatty():
        with _bar(title, total, unit, done) as advance_bar:
            yield advance_bar
        return
    start = last = time.monotonic()
    fresh = 0

    def line(now: float) -> None:
        rate = fresh / max(now - start, 1e-9)
        share = f"/{total:,} ({100 * (done + fresh) / total:.0f} %)" if total else ""
        left = f", {max(total - done - fresh, 0) / rate:,.0f} s left" if total and rate else ""
        shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"
        unit_text = f" {unit}" if unit else ""
        print(f"{title}: {done + fresh:,}{share}{unit_text}, {shown}/s{left}", file=sys.stderr, flush=True)

    def advance(count: int) -> None:
        nonlocal fresh, last
        fresh += count
        now = time.monotonic()
        if now - last >= LINE_EVERY_S:
            last = now
            line(now)

    try:
        yield advance
    finally:
        line(time.monotonic())


@contextmanager
def _bar(title: str, total: int | None, unit: str, done: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda count: bar.advance(task, count)
