"""`interestream replay --kafka`: the log goes to the topic of behaviours, the agents do the rest."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from interest.errors import InputError

if TYPE_CHECKING:
    from interest.types import Item, User
    from streams.files.rows import BehaviorLog
    from streams.replay.producer import LogProducer, Produced
    from streams.settings.schema import KafkaSettings


def produce(
    log: BehaviorLog,
    items: Path | None,
    users: Path | None,
    column_map: dict[str, str],
    *,
    rate: str,
    strict: bool,
    resume: bool,
) -> None:
    """Produce the catalogue, then the log; print what was done. Ctrl-C ends it where it can be gone on from."""
    from streams.progress import progress
    from streams.replay.producer import LogProducer
    from streams.replay.rate import parse_rate
    from streams.settings.load import load_settings

    pace = parse_rate(rate)
    settings = load_settings().kafka
    for library in ("aiokafka", "kafka"):  # what they would say of a broker that is away is said below, once
        logging.getLogger(library).setLevel(logging.CRITICAL)
    with ExitStack() as stack:

        def started(rows: int, done: int, was_sorted: bool) -> Callable[[int], None]:
            if done and not resume:
                raise InputError(
                    f"{log.path.name} was produced to this Kafka up to row {done:,}; leave --no-resume out to go on "
                    "from there, or make the topic again"
                )
            order = "in order of time" if was_sorted else "not in order of time: sorted first"
            print(f"{log.path.name}: {rows:,} rows, {order}" + (f"; {done:,} done earlier" if done else ""), flush=True)
            return stack.enter_context(progress("Producing", rows, unit="rows", done=done))

        producer = LogProducer(settings=settings, log=log, rate=pace, strict=strict, started=started, warn=_warn)
        produced = asyncio.run(_until_interrupted(producer, list(_catalogue(items, users, column_map))))
    _report(produced)
    if not produced.ended:
        signal.raise_signal(signal.SIGINT)  # the command line's own way to end: its text and its exit code


async def _until_interrupted(
    producer: LogProducer, catalogue: list[tuple[str, Callable[[], Iterator[Sequence[Item | User]]]]]
) -> Produced:
    """Run it; the first Ctrl-C asks it to stop, a second one ends it as any command ends."""
    from streams.kafka.errors import describe, is_retriable
    from streams.retry import retry

    loop, ended_before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)

    def asked() -> None:
        producer.stop.set()
        restore()

    def restore() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, ended_before)

    def failed(error: Exception, _wait_s: float) -> None:
        _warn(f"{describe(error)}; trying again until Kafka answers, Ctrl-C to give up")

    for name, read in catalogue:
        send = partial(_send_catalogue, producer.settings, read)
        print(f"{await retry(send, retriable=is_retriable, failed=failed):,} {name}", flush=True)
    loop.add_signal_handler(signal.SIGINT, asked)
    try:
        return await producer.run()
    finally:
        restore()


async def _send_catalogue(settings: KafkaSettings, read: Callable[[], Iterator[Sequence[Item | User]]]) -> int:
    from streams.replay.catalogue import produce_catalogue

    return await produce_catalogue(settings, read())


def _catalogue(
    items: Path | None, users: Path | None, column_map: dict[str, str]
) -> Iterator[tuple[str, Callable[[], Iterator[Sequence[Item | User]]]]]:
    from streams.files.catalogue import items_of, users_of

    if items:
        yield f"items from {items.name}", partial(items_of, items, column_map)
    if users:
        yield f"user profiles from {users.name}", partial(users_of, users, column_map)


def _report(produced: Produced) -> None:
    rejected = f"; {produced.rejected:,} rejected" if produced.rejected else ""
    if produced.ended and not produced.new:
        print(f"nothing new: the topic has all {produced.rows:,} behaviours of this log{rejected}")
    else:
        print(f"{produced.new:,} behaviours produced{rejected}")
    if produced.rejected_file:
        print(f"rejected rows, each with line and reason: {produced.rejected_file}")


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
