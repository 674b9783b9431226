"""What an import has understood of a file: a table of columns, their meaning and one value, and what it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from streams.files.text import shown

WIDEST = 28  # characters of one cell


class ColumnUse(msgspec.Struct, frozen=True):
    """One column as it is taken."""

    column: str
    meaning: str  # empty: not used
    read: str = ""  # one cell as it stands
    taken: str = ""  # what it became, where that is not the same


class Understood(msgspec.Struct, frozen=True):
    """One file as it is taken."""

    file: str
    columns: Sequence[ColumnUse]
    notes: Sequence[str] = ()


def table(understood: Understood) -> Iterator[str]:
    """The lines to print: used columns first, the unused together in one line, then the notes."""
    used = [use for use in understood.columns if use.meaning]
    unused = [use.column for use in understood.columns if not use.meaning]
    yield f"{understood.file}:"
    width = max((len(_cut(use.column)) for use in used), default=0)
    meanings = max((len(use.meaning) for use in used), default=0)
    for use in used:
        example = shown(use.read, WIDEST) if use.read != "" else ""
        became = f" -> {use.taken}" if use.taken and use.taken != use.read else ""
        yield f"  {_cut(use.column):<{width}}  {use.meaning:<{meanings}}  {example}{became}".rstrip()
    if unused:
        yield f"  not used: {', '.join(unused)}"
    for note in understood.notes:
        yield f"  {note}"


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"
