"""`interestream timeline`: one user's partitions, interest texts and evidence, on one page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from streams.commands.options import Json, Store
from streams.settings.load import store_url

if TYPE_CHECKING:
    from streams.store.timeline import Evidence, Period, Timeline, WrittenText

WIDTH = 96  # columns, or the terminal's if it has fewer


def timeline(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    json: Json = False,
    prompt_version: Annotated[
        str | None, typer.Option(help="Interests by this version of the prompts. Default: the version with the most.")
    ] = None,
    evidence: Annotated[int, typer.Option(help="Behaviours shown behind each summary (--json: all).", min=0)] = 6,
    store: Store = None,
) -> None:
    """Print USER's history: each closed partition's dates, summary, shift and evidence, and the open cache.

    Texts that were not written by an LLM are marked STATISTICS.
    """
    import shutil

    import msgspec

    from streams.store.engine import open_store
    from streams.store.timeline import read_timeline

    engine = open_store(store_url(store), create=False)
    with engine.connect() as connection:
        found = read_timeline(connection, user, prompt_version)
    if json:
        print(msgspec.json.encode(found).decode())
        return
    width = max(40, min(WIDTH, shutil.get_terminal_size().columns - 1))
    print("\n".join(page(found, width=width, evidence=evidence)))


def page(timeline: Timeline, *, width: int = WIDTH, evidence: int = 6) -> Iterator[str]:
    """The page to read, line by line, none wider than `width`."""
    profile = ", ".join(f"{name} {value}" for name, value in timeline.profile.items() if value)
    yield from _wrap(f"User {timeline.user_id}" + (f" ({profile})" if profile else ""), width)
    many = len(timeline.partitions)
    behaviors = sum(period.behaviors for period in timeline.partitions)
    about = f"{many:,} closed partition{'s' * (many != 1)} of {behaviors:,} behaviours"
    if timeline.prompt_version:
        about += f"; interests by the prompts {timeline.prompt_version}"
    if timeline.other_versions:
        about += f" (there are also {', '.join(timeline.other_versions)}: --prompt-version)"
    yield from _wrap(about, width)
    for period in timeline.partitions:
        yield ""
        yield from _period(period, width, evidence)
    yield ""
    cache = timeline.open
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
    head = f"{dates}: {period.behaviors:,} behaviours, closed by {period.reason}"
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


def _text(name: str, text: WrittenText, width: int) -> Iterator[str]:
    mark = "LLM" if text.source == "llm" else f"STATISTICS, not the LLM: {text.outcome}"
    if text.source == "llm" and text.outcome != "ok":
        mark += f", {text.outcome}"
    yield from _wrap(f"{name} [{mark}]: {text.text}", width, "          ", "        ")


def _behavior(one: Evidence) -> str:
    return one.title if one.value is None else f"{one.title} = {one.value:g}"


def _days(first: str, last: str) -> str:
    first, last = first[:16], last[:16]
    if first[:10] == last[:10]:
        return f"{first} to {last[11:]}"
    return f"{first[:10]} to {last[:10]}"


def _wrap(text: str, width: int, indent: str = "", first: str = "") -> list[str]:
    """Lines of at most `width`; what a terminal would obey (control characters in a title) becomes a space."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    return textwrap.wrap(clean, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
