"""`interestream subscribe`: what is learned about users, as it happens."""

from __future__ import annotations

import logging
import os
import signal
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeAlias, cast

import typer

from interest.errors import InputError

if TYPE_CHECKING:
    from streams.kafka.messages import InterestUpdate, RepresentationUpdate
    from streams.subscription.start import Start
    from streams.subscription.subscription import Subscription

    AnySubscription: TypeAlias = Subscription[InterestUpdate] | Subscription[RepresentationUpdate]


class Topic(StrEnum):
    UPDATES = "updates"
    LATEST = "latest"
    REPRESENTATIONS = "representations"


def subscribe(
    user: Annotated[list[str] | None, typer.Option(help="Only this user; repeat the option for more.")] = None,
    from_: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="beginning|now|TIME",
            help="Where to begin; TIME is when an update was made, e.g. 2026-01-31T12:00 (UTC) or epoch seconds.",
        ),
    ] = "now",
    group: Annotated[
        str | None,
        typer.Option(
            help="A consumer group: the next run goes on where this one ended; several at once share the users."
        ),
    ] = None,
    topic: Annotated[
        Topic,
        typer.Option(
            help="updates: every one; latest: each user's newest; representations: each user's newest vector."
        ),
    ] = Topic.UPDATES,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Wait for more, or stop at the present end of the topic.")
    ] = True,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line instead of text to read.")
    ] = False,
) -> None:
    """Print interest updates as the agents publish them. Ctrl-C ends it.

    With --topic latest or representations and --from beginning (or a TIME), each user's newest is printed once, then
    whatever is new. Forgotten users are not printed, and a forget prints nothing. With --group, older messages are
    printed too, as long as Kafka has not compacted them away.
    """
    from streams.subscription import api

    for library in ("aiokafka", "kafka"):  # what they would say of a broker that is away is said below, once
        logging.getLogger(library).setLevel(logging.CRITICAL)
    subscription = api.subscribe(user or None, _start(from_), group, topic=topic.value, follow=follow, warn=_warn)
    signal.signal(signal.SIGINT, lambda *_: _interrupt(subscription))
    try:
        _print(subscription, json=json)
    except BrokenPipeError:  # `| head` has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    if _interrupted:
        sys.exit(130)


_interrupted: list[bool] = []


def _interrupt(subscription: AnySubscription) -> None:
    """The first Ctrl-C ends it in good order, a second one at once."""
    _interrupted.append(True)
    subscription.stop()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _print(subscription: AnySubscription, *, json: bool) -> None:
    from streams.kafka.messages import encode_message

    with subscription:
        for update in subscription:
            text = encode_message(update).decode() if json else _page(update)
            print(text, flush=True)


def _page(update: InterestUpdate | RepresentationUpdate) -> str:
    from streams.kafka.messages import RepresentationUpdate

    if isinstance(update, RepresentationUpdate):
        numbers = update.floats()
        shown = ", ".join(f"{number:.3f}" for number in numbers[:6])
        return (
            f"user {update.user_id} · as of partition {update.index} · {update.artifact}\n"
            f"  [{shown}{', …' if len(numbers) > 6 else ''}] ({len(numbers)} numbers)\n"
        )
    period = f"{_time(update.opened_at)} – {_time(update.closed_at)}"
    where = f" · scene {update.scene}" if update.scene else ""
    source = update.summary_source + (f" ({update.model})" if update.model else "")
    lines = [
        f"user {update.user_id} · partition {update.index}{where} · {period} · {update.behaviors} behaviours",
        f"  {update.summary}",
    ]
    if update.shift:
        lines.append(f"  shift: {update.shift}")
    lines.append(f"  by {source}, {update.summary_outcome}; closed by {update.reason}")
    return "\n".join(lines) + "\n"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _start(text: str) -> Start:
    if text in ("beginning", "now"):
        return cast("Start", text)
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"--from {text}: give beginning, now, a time such as 2026-01-31T12:00 (UTC), or UTC seconds"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
