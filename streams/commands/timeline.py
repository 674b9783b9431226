"""`interestream timeline`: one user's partitions, interest texts and evidence; an overview where they are many."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from interest.errors import InputError
from streams.commands.options import Json, Store, event_time
from streams.settings.load import store_url

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from streams.store.timeline import Choice, Evidence, History, Period, Span, WrittenText

WIDTH = 96  # columns, or the terminal's if it has fewer
FEW = 20  # partitions that are shown whole without being asked for


def timeline(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    last: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="The newest N partitions.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Partitions that closed at TIME or later: 2026-01-31, or seconds."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Partitions that opened at TIME or earlier; a date counts whole.")
    ] = None,
    partition: Annotated[
        list[int] | None, typer.Option("--partition", metavar="K", help="Partition K; repeat the option for more.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All partitions, however many.")] = False,
    json: Json = False,
    ndjson: Annotated[
        bool, typer.Option("--ndjson", help="Print one JSON object per line and partition; without the open cache.")
    ] = False,
    prompt_version: Annotated[
        str | None, typer.Option(help="Interests by this version of the prompts. Default: the version with the most.")
    ] = None,
    evidence: Annotated[int, typer.Option(help="Behaviours shown behind each summary (--json: all).", min=0)] = 6,
    store: Store = None,
) -> None:
    """Print USER's history: each closed partition's dates, summary, shift and evidence, and the open cache.

    Of more than 20 partitions an overview is printed, a screen long, unless you choose some or give --all; --json and
    --ndjson print all, or those chosen. Texts that were not written by an LLM are marked STATISTICS.
    """
    import msgspec

    from streams.store.engine import open_store
    from streams.store.timeline import Choice, periods, read_history, read_timeline

    if json and ndjson:
        raise InputError("--json prints one object, --ndjson a line for each partition; give one of them")
    choice = Choice(
        indexes=tuple(partition or ()),
        since=event_time("--since", since) if since else -float("inf"),
        until=event_time("--until", until, whole_day=True) if until else float("inf"),
        last=last,
    )
    with open_store(store_url(store), create=False).connect() as connection:
        if json:
            print(msgspec.json.encode(read_timeline(connection, user, prompt_version, choice)).decode())
            return
        history = read_history(connection, user, prompt_version)
        if ndjson:
            named = {"user_id": user, "generation": history.generation, "prompt_version": history.prompt_version}
            for period in periods(connection, history, choice):
                print(msgspec.json.encode(named | msgspec.structs.asdict(period)).decode())
            return
        terminal = shutil.get_terminal_size()
        width = max(40, min(WIDTH, terminal.columns - 1))
        if choice.all and not everything and len(history.closed) > FEW:
            _print(overview(history, width=width, lines=terminal.lines - 1))
        else:
            _print(page(connection, history, choice, width=width, evidence=evidence))


def _print(lines: Iterable[str]) -> None:
    """Print them; through the pager ($PAGER, else less) where they are more than a terminal shows."""
    lines = list(lines)
    if sys.stdout.isatty() and len(lines) >= shutil.get_terminal_size().lines:
        import pydoc

        pydoc.pager("\n".join(lines) + "\n")
    else:
        print("\n".join(lines))


def overview(history: History, *, width: int = WIDTH, lines: int = 23) -> Iterator[str]:
    """At most `lines` lines (and never fewer than four spans): the user's partitions merged into spans."""
    from streams.store.timeline import spans

    head = list(_head(history, width))
    hint = (
        f"`interestream timeline {history.user_id}` with --last N, --partition K, --since, --until or --all shows more"
    )
    tail = ["", *_open(history, width), *_wrap(hint, width)]
    yield from head
    yield ""
    for span in spans(history, max(4, (lines - len(head) - len(tail) - 1) // 2)):
        yield from _span(span, width)
    yield from tail


def _span(span: Span, width: int) -> Iterator[str]:
    """Two lines: which partitions and when; the newest summary, cut to the line."""
    name = f"#{span.first}" if span.first == span.last else f"#{span.first} to #{span.last}"
    yield _cut(f"{name:<15} {_days(span.opened_at, span.closed_at)}: {span.behaviors:,} behaviours", width)
    if span.newest is None:
        yield _cut("                no interest learned yet: `interestream learn`", width)
    else:
        mark = "" if span.newest.source == "llm" else "[STATISTICS] "
        yield _cut(f"                {mark}{span.newest.text}", width)


def page(
    connection: Connection, history: History, choice: Choice | None = None, *, width: int = WIDTH, evidence: int = 6
) -> Iterator[str]:
    """The chosen partitions to read, line by line, none wider than `width`."""
    from streams.store.timeline import periods

    yield from _head(history, width)
    for period in periods(connection, history, choice):
        yield ""
        yield from _period(period, width, evidence)
    yield ""
    yield from _open(history, width)


def _head(history: History, width: int) -> Iterator[str]:
    profile = ", ".join(f"{name} {value}" for name, value in history.profile.items() if value)
    yield from _wrap(f"User {history.user_id}" + (f" ({profile})" if profile else ""), width)
    many = len(history.closed)
    behaviors = sum(partition.size for partition in history.closed)
    about = f"{many:,} closed partition{'s' * (many != 1)} of {behaviors:,} behaviours"
    if history.prompt_version:
        about += f"; interests by the prompts {history.prompt_version}"
    if history.other_versions:
        about += f" (there are also {', '.join(history.other_versions)}: --prompt-version)"
    yield from _wrap(about, width)


def _open(history: History, width: int) -> Iterator[str]:
    cache = history.open
    if cache.behaviors:
        yield from _wrap(
            f"open    {_days(str(cache.since), str(cache.until))}: {cache.behaviors:,} behaviours in the open cache, "
            "read by the CTR model only",
            width,
            "        ",
        )
    else:
        yield "open    nothing in the open cache"


def _period(period: Period, width: int, evidence: int) -> Iterator[str]:
    dates = _days(period.opened_at, period.closed_at)
    scene = f" of the scene {period.scene}" if period.scene else ""
    head = f"{dates}: {period.behaviors:,} behaviours{scene}, closed by {period.reason}"
    yield from _wrap(head, width, "        ", f"#{period.index:<6} ")
    if period.summary is None:
        yield from _wrap("no interest learned yet: `interestream learn`", width, "        ", "        ")
        return
    yield from _text("summary", period.summary, width)
    if period.shift:
        yield from _text("shift", period.shift, width)
    if period.evidence and evidence:
        shown = "; ".join(_behavior(one) for one in period.evidence[:evidence])
        left = len(period.evidence) - evidence
        more = f"; and {left:,} more" if left > 0 else ""
        yield from _wrap(f"evidence: {shown}{more}", width, "          ", "        ")
    if period.counts:
        yield from _wrap(f"counts: {'; '.join(period.counts)}", width, "          ", "        ")
    if period.knowledge:
        said = " ".join(f"{one.title} ({one.about}): {_ended(one.text)}" for one in period.knowledge)
        yield from _wrap(f"the model's own knowledge of titles, unchecked: {said}", width, "          ", "        ")


def _text(name: str, text: WrittenText, width: int) -> Iterator[str]:
    mark = "LLM" if text.source == "llm" else f"STATISTICS, not the LLM: {text.outcome}"
    if text.source == "llm" and text.outcome != "ok":
        mark += f", {text.outcome}"
    yield from _wrap(f"{name} [{mark}]: {text.text}", width, "          ", "        ")


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def _behavior(one: Evidence) -> str:
    return one.title if one.value is None else f"{one.title} = {one.shown}"


def _days(first: str, last: str) -> str:
    first, last = first[:16], last[:16]
    if first[:10] == last[:10]:
        return f"{first} to {last[11:]}"
    return f"{first[:10]} to {last[:10]}"


def _cut(text: str, width: int) -> str:
    """One line of at most `width`."""
    clean = _clean(text)
    return clean if len(clean) <= width else f"{clean[: width - 3].rstrip()}..."


def _clean(text: str) -> str:
    """What a terminal would obey (control characters in a title) becomes a space."""
    return "".join(character if character.isprintable() else " " for character in text)


def _wrap(text: str, width: int, indent: str = "", first: str = "") -> list[str]:
    """Lines of at most `width`."""
    return textwrap.wrap(_clean(text), width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
