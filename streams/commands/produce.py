"""`interestream replay --kafka`: the log goes to the topic of behaviours, the agents do the rest."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from interest.errors import InputError

if TYPE_CHECKING:
    from interest.types import Item, User
    from streams.files.catalogue import ItemFile, UserFile
    from streams.files.sources import Sources
    from streams.replay.producer import LogProducer, Produced
    from streams.settings.schema import KafkaSettings


def produce(
    sources: Sources,
    *,
    rate: str,
    resume: bool,
    timeout_s: float,
) -> None:
    """Produce the catalogue, then the log; print what was done. Ctrl-C ends it where it can be gone on from."""
    from streams.progress import progress
    from streams.replay.producer import LogProducer
    from streams.replay.rate import parse_rate
    from streams.settings.load import load_settings

    pace, log = parse_rate(rate), sources.log
    settings = load_settings().kafka
    for library in ("aiokafka", "kafka"):  # what they would say of a broker that is away is said below, once
        logging.getLogger(library).setLevel(logging.CRITICAL)
    print("\n".join(sources.understood()), flush=True)
    with ExitStack() as stack:

        def started(rows: int, done: int, was_sorted: bool) -> Callable[[int], None]:
            if done and not resume:
                raise InputError(
                    f"{log.path.name} was produced to this Kafka up to row {done:,}; leave --no-resume out to go on "
                    "from there, or make the topic again"
                )
            order = "in order of time" if was_sorted else "not in order of time: sorted first"
            print(f"{log.path.name}: {rows:,} rows, {order}" + (f"; {done:,} done earlier" if done else ""), flush=True)
            if log.whole_minutes and "event_id" not in log.fields:
                _warn(
                    "warning: this log has no event_id and its times are whole minutes: the agents drop repetitions "
                    "within a minute as duplicates, unless their setting is INTERESTREAM_INGEST_DEDUPE=none"
                )
            return stack.enter_context(progress("Producing", None if log.entities else rows, unit="rows", done=done))

        producer = LogProducer(
            settings=settings,
            log=log,
            rate=pace,
            rejects=sources.rejects(log.path),
            started=started,
            warn=_warn,
            timeout_s=timeout_s,
        )
        produced = asyncio.run(_until_interrupted(producer, list(_catalogue(sources))))
    _report(produced)
    if not produced.ended:
        signal.raise_signal(signal.SIGINT)  # the command line's own way to end: its text and its exit code


async def _until_interrupted(
    producer: LogProducer, catalogue: list[tuple[str, Callable[[], Iterator[Sequence[Item | User]]]]]
) -> Produced:
    """Run it; the first Ctrl-C asks it to stop, a second one ends it as any command ends."""
    from interest.retry import retry
    from streams.kafka.errors import describe, is_retriable

    loop, ended_before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)

    def asked() -> None:
        producer.stop.set()
        restore()

    def restore() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, ended_before)

    def failed(error: Exception, _wait_s: float) -> None:
        producer.outage.failed()
        _warn(f"{describe(error)}; trying again until Kafka answers, Ctrl-C to give up")

    for name, read in catalogue:
        send = partial(_send_catalogue, producer.settings, read)
        print(f"{await retry(send, retriable=is_retriable, failed=failed):,} {name}", flush=True)
        producer.outage.over()
    loop.add_signal_handler(signal.SIGINT, asked)
    try:
        return await producer.run()
    finally:
        restore()


async def _send_catalogue(settings: KafkaSettings, read: Callable[[], Iterator[Sequence[Item | User]]]) -> int:
    from streams.replay.catalogue import produce_catalogue

    return await produce_catalogue(settings, read())


def _catalogue(sources: Sources) -> Iterator[tuple[str, Callable[[], Iterator[Sequence[Item | User]]]]]:
    """What to send before the log: its name, and how to read it, which may be asked for again."""
    from streams.files.entities import offered_catalogue

    def items(file: ItemFile) -> Iterator[Sequence[Item]]:
        with sources.rejects(file.path) as rejects:
            yield from file.items(rejects)

    def users(file: UserFile) -> Iterator[Sequence[User]]:
        with sources.rejects(file.path) as rejects:
            yield from file.users(rejects)

    if sources.items:
        yield f"items from {sources.items.path.name}", partial(items, sources.items)
    else:
        for what, read in offered_catalogue(sources.log):
            yield f"{what} from {sources.log.path.name}", read
    if sources.users:
        yield f"user profiles from {sources.users.path.name}", partial(users, sources.users)


def _report(produced: Produced) -> None:
    rejected = produced.rejects.told() if produced.rejects else ""
    if produced.ended and not produced.new:
        print(f"nothing new: the topic has all {produced.rows:,} behaviours of this log{rejected}")
    else:
        print(f"{produced.new:,} behaviours produced{rejected}")


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
