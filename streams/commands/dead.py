"""`interestream dead`: messages that could not be used; read them, send them again after a fix, or drop them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interest.errors import InputError
from streams.commands.options import Json

if TYPE_CHECKING:
    from streams.admin.dead_letters import OpenLetter, Replayed
    from streams.kafka.dead_letter import DeadLetter

SHOWN_BYTES = 4_096  # of a message, on a screen; --raw writes all

dead = typer.Typer(help="Messages that could not be used: list, show, replay, discard.", no_args_is_help=True)

Topic = Annotated[
    str | None, typer.Argument(help="Only those of this topic: behaviors, items, users...", show_default=False)
]
Reason = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Only those whose reason contains this text.")
]
Ids = Annotated[
    list[str] | None,
    typer.Option("--id", metavar="TOPIC/PARTITION/OFFSET", help="Only this one; repeat the option for more."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dead.command("list")
def list_letters(
    topic: Topic = None,
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=0, help="How many letters to show; the counts cover all of them.")] = 50,
    json: Json = False,
) -> None:
    """List the open dead letters: those neither replayed nor discarded, and still within their retention."""
    import msgspec

    from streams.admin.dead_letters import open_letters
    from streams.settings.load import load_settings

    letters = open_letters(load_settings().kafka, topic, reason)
    if json:
        shown = [
            {
                "id": one.id, "timestamp_ms": one.timestamp_ms, "reason": one.reason, "bytes": one.size,
                "key": None if one.key is None else printable(one.key), "truncated": one.truncated,
            }
            for one in letters[:limit]
        ]  # fmt: skip
        print(msgspec.json.encode({"total": len(letters), "letters": shown}).decode())
    else:
        print("\n".join(page(letters, limit)))


def page(letters: Sequence[OpenLetter], limit: int) -> Iterator[str]:
    """How many there are of each reason, then the letters."""
    if not letters:
        yield "no dead letters"
        return
    for (topic, reason), count in Counter((one.topic, one.reason) for one in letters).most_common(20):
        yield f"{count:>9,}  {topic}: {printable(reason.encode(), 160)}"
    if not limit:
        return
    yield ""
    width = max(len(one.id) for one in letters[:limit])
    for one in letters[:limit]:
        at = datetime.fromtimestamp(one.timestamp_ms / 1000, UTC)
        size = "null" if one.size is None else f"{one.size:,}"
        yield f"{one.id:<{width}}  {at:%Y-%m-%d %H:%M:%S}  {size:>10}  {printable(one.reason.encode(), 100)}"
    yield ""
    yield "`interestream dead show ID` has one whole; `dead replay` sends back, `dead discard` drops"
    if len(letters) > limit:
        yield f"and {len(letters) - limit:,} more: --limit"


@dead.command("show")
def show(
    place: Annotated[str, typer.Argument(metavar="TOPIC/PARTITION/OFFSET", help="As `dead list` prints it.")],
    raw: Annotated[bool, typer.Option("--raw", help="Write only the message's bytes.")] = False,
) -> None:
    """Show one dead letter: the reason, its key, and its bytes, where everything but plain text is escaped."""
    from streams.admin.dead_letters import open_letters, read_whole
    from streams.settings.load import load_settings

    settings = load_settings().kafka
    letter = read_whole(settings, open_letters(settings, ids=[place])[0])
    if raw:
        if letter.truncated:
            print(_shortened(letter), file=sys.stderr)
        sys.stdout.buffer.write(letter.value or b"")
        sys.stdout.buffer.flush()
        return
    at = datetime.fromtimestamp(letter.timestamp_ms / 1000, UTC)
    print(f"topic      {letter.topic}\npartition  {letter.partition}\noffset     {letter.offset}")
    print(f"time       {at:%Y-%m-%d %H:%M:%S} UTC\nreason     {printable(letter.reason.encode())}")
    print(f"key        {'null' if letter.key is None else printable(letter.key)}")
    if letter.truncated:
        print(_shortened(letter))
    print("value      " + ("null" if letter.value is None else f"{len(letter.value):,} bytes"))
    print(printable(letter.value or b"", SHOWN_BYTES))


def _shortened(letter: DeadLetter) -> str:
    return (
        f"only the first {len(letter.value or b''):,} of {letter.truncated:,} bytes are kept here; while retention "
        f"lasts, the whole message is in {letter.topic}, partition {letter.partition}, offset {letter.offset}"
    )


@dead.command("replay")
def replay(
    topic: Topic = None,
    reason: Reason = None,
    ids: Ids = None,
    value: Annotated[
        Path | None, typer.Option("--value", metavar="FILE", help="With one --id: send this file's bytes instead.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="TEXT", help="With one --id: send it with this key instead.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also send messages that would be refused again.")] = False,
    yes: Yes = False,
) -> None:
    """Send messages back to their topic after a fix; those that would be refused again are named and left out.

    Each message is checked as the worker that reads it would check it; what only the store can refuse is sent. A
    message goes to its own Kafka partition with its own key; its letter is closed in the same transaction of
    Kafka's. If this is interrupted nothing is lost and nothing is sent twice: run the same command again.

    To mend one message: `dead show ID --raw > FILE`, edit FILE, `dead replay --id ID --value FILE`.

    Exits with 1 if any message was not sent.
    """
    from streams.admin.dead_letters import end_unfinished_replay, open_letters, still_refused
    from streams.admin.dead_letters import replay as replay_letters
    from streams.progress import progress
    from streams.settings.load import load_settings

    if (value is not None or key is not None) and len(ids or ()) != 1:
        raise InputError("--value and --key mend one message: name it with one --id")
    mended = _read(value) if value else None
    new_key = None if key is None else key.encode(errors="surrogateescape")
    settings = load_settings().kafka
    end_unfinished_replay(settings)
    letters = open_letters(settings, topic, reason, ids or ())
    if not letters:
        print("no dead letters to replay")
        return
    with progress("checking", len(letters)) as bar:
        again = still_refused(settings, letters, value=mended, key=new_key, done=bar)
    if again:
        print("\n".join(hopeless(letters, again, force=force)))
    chosen = [letter for letter in letters if force or letter.id not in again]
    if not chosen:
        raise typer.Exit(1)
    _ask(chosen, "Send", "into their topics again", yes=yes)
    with progress("replaying", len(chosen)) as bar:
        outcome = replay_letters(settings, chosen, value=mended, key=new_key, done=bar)
    print("\n".join(said(outcome)))
    if len(chosen) < len(letters) or outcome.truncated or outcome.refused:
        raise typer.Exit(1)


def hopeless(letters: Sequence[OpenLetter], again: Mapping[str, str], *, force: bool) -> Iterator[str]:
    """How many would be refused again and why, with one of each reason to look at."""
    what = "sent all the same" if force else "left out"
    yield f"{len(again):,} of {len(letters):,} would be refused again; {what}:"
    reasons = Counter((one.topic, again[one.id]) for one in letters if one.id in again)
    examples = {(one.topic, again[one.id]): one.id for one in reversed(letters) if one.id in again}
    for (topic, reason), count in reasons.most_common(20):
        yield f"{count:>9,}  {topic}: {printable(reason.encode(), 160)} (e.g. {examples[topic, reason]})"
    if len(reasons) > 20:
        yield f"{sum(count for _, count in reasons.most_common()[20:]):>9,}  for {len(reasons) - 20:,} other reasons"
    if not force:
        yield "mend one (--id ID, --value FILE or --key TEXT), drop them (`dead discard`), or send them with --force"


def said(outcome: Replayed) -> Iterator[str]:
    """What became of a replay."""
    yield f"{outcome.sent:,} messages sent again, their letters closed"
    for place in outcome.truncated:
        topic, partition, offset = place.rsplit("/", 2)
        yield (
            f"not sent: {place} is cut off here; while retention lasts it is whole in {topic}, partition {partition}, "
            f"offset {offset}; send a corrected one with --id {place} --value FILE"
        )
    for place, why in outcome.refused:
        yield f"not sent: {place}: {why}"


@dead.command("discard")
def discard(topic: Topic = None, reason: Reason = None, ids: Ids = None, yes: Yes = False) -> None:
    """Close dead letters without sending their messages: they are no longer listed, and their space is freed."""
    from streams.admin.dead_letters import discard as discard_letters
    from streams.admin.dead_letters import open_letters
    from streams.settings.load import load_settings

    settings = load_settings().kafka
    letters = open_letters(settings, topic, reason, ids or ())
    if not letters:
        print("no dead letters to discard")
        return
    _ask(letters, "Discard", "for good", yes=yes)
    discard_letters(settings, letters)
    print(f"{len(letters):,} dead letters discarded")


def _ask(letters: Sequence[OpenLetter], verb: str, where: str, *, yes: bool) -> None:
    if yes:
        return
    print("\n".join(page(letters, 0)))
    if not typer.confirm(f"{verb} {len(letters):,} messages {where}?"):
        raise typer.Exit(1)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"--value {file} cannot be read: {error.strerror}") from error


def printable(raw: bytes, most: int | None = None) -> str:
    """Bytes as text that no terminal acts upon: what is not UTF-8, or not printable, is escaped."""
    cut = raw if most is None else raw[:most]
    text = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in cut.decode(errors="backslashreplace")
    )
    return text if len(cut) == len(raw) else f"{text}... ({len(raw) - len(cut):,} bytes more)"
