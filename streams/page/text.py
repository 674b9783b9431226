"""Other people's texts as HTML: escaped, kept to a length, and each in its own direction of writing."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

LONGEST = 160  # characters of a title or a value that are shown


def isolated(text: str, longest: int = LONGEST) -> str:
    """A text that somebody else wrote. Marks of direction in it turn nothing around it."""
    shown = text if len(text) <= longest else f"{text[:longest].rstrip()}…"
    return f"<bdi>{escape(shown)}</bdi>"


def attribute(text: str, longest: int = LONGEST) -> str:
    """The same for an attribute in double quotes."""
    return escape(text if len(text) <= longest else f"{text[:longest].rstrip()}…")


def number(value: float) -> str:
    return f"{value:,.0f}"


def counted(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def day(at: float | None) -> str:
    """An event time as a date and minute, UTC."""
    return _time(at, "%Y-%m-%d %H:%M")


def stretch(opened_at: float, closed_at: float) -> str:
    """From when to when; the date once where it is one."""
    first, last = day(opened_at), day(closed_at)
    same = first[:10] == last[:10] and len(first) == 16
    return f"{first} – {last[11:] if same else last}"


def _time(at: float | None, form: str) -> str:
    if at is None:
        return "–"
    try:
        return datetime.fromtimestamp(at, UTC).strftime(form)
    except (OverflowError, ValueError, OSError):
        return f"{at:.0f} s"
