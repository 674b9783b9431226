"""`interestream lag`: how far each stage is behind."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from streams.commands.options import Json, Store

if TYPE_CHECKING:
    from streams.admin.lag import PartitionLag, Report

EVERY_S = 2.0
CLEAR = "\x1b[H\x1b[2J"


def lag(
    watch: Annotated[bool, typer.Option("--watch", help="Print it every two seconds, until Ctrl-C.")] = False,
    most: Annotated[
        int | None,
        typer.Option(
            "--max",
            metavar="N",
            min=0,
            help="Exit with 1 if the lag of a stage is above N, or a stage has refused to go on.",
        ),
    ] = None,
    partitions: Annotated[bool, typer.Option("--partitions", help="Also show partitions without lag.")] = False,
    json: Json = False,
    store: Store = None,
) -> None:
    """Show how far each stage is in each topic and partition; also its workers, the outbox and dead letters.

    The position of ingest is the offset in the store, that of interest and fusion the offset their consumer groups
    have committed. The records of a `.dead` topic include closed letters; `interestream dead list` counts open ones.
    """
    import msgspec

    from streams.admin.lag import read_lag
    from streams.settings.load import load_settings, store_url
    from streams.store.engine import open_store

    settings = load_settings().kafka
    engine = open_store(store_url(store), create=False)
    while True:
        report = read_lag(engine, settings)
        if watch and not json and sys.stdout.isatty():
            print(CLEAR, end="")
        print(msgspec.json.encode(report).decode() if json else "\n".join(page(report, partitions)), flush=True)
        if not watch:
            break
        time.sleep(EVERY_S)
    engine.dispose()
    if most is not None and (report.worst > most or report.stuck):
        raise typer.Exit(1)


def page(report: Report, partitions: bool) -> Iterator[str]:
    """The table: a line a topic with its sums, and a line for every partition that has something to say."""
    names = [row.topic for stage in report.stages for row in stage.partitions]
    width = max(map(len, [*names, *report.dead, *report.outbox]), default=0)
    yield f"{'stage':<9} {'topic':<{width}} {'part':>4} {'done':>14} {'end':>14} {'lag':>12}"
    for stage in report.stages:
        for topic, group in groupby(stage.partitions, key=lambda row: row.topic):
            rows = list(group)
            sums = [sum(row.done or 0 for row in rows), sum(row.end for row in rows), sum(row.lag for row in rows)]
            yield f"{stage.stage:<9} {topic:<{width}} {'all':>4} {sums[0]:>14,} {sums[1]:>14,} {sums[2]:>12,}"
            yield from (_row(row, width) for row in rows if partitions or row.lag or row.note)
    for stage in report.stages:
        workers = ", ".join(stage.members) or "no worker runs it"
        yield f"{stage.stage:<9} lag {stage.lag:,} in all; {workers}"
    for topic, count in report.outbox.items():
        yield f"outbox    {topic:<{width}} {count:,} waiting to be announced"
    for topic, count in report.dead.items():
        if count:
            yield f"dead      {topic:<{width}} {count:,} records"


def _row(row: PartitionLag, width: int) -> str:
    done = "-" if row.done is None else f"{row.done:,}"
    note = f"  {row.note}: `interestream topics accept {row.topic}`" if row.note else ""
    return f"{'':<9} {'':<{width}} {row.partition:>4} {done:>14} {row.end:>14,} {row.lag:>12,}{note}"
