"""Keeps a catalogue's text inside its field of a prompt or a training document: on one line, without special tokens."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import replace

from interest.facts.counts import Facts
from interest.facts.past_tense import normalise
from interest.llm.control_tokens import FORMATS, broken, pattern_of

LONGEST = 400  # characters of one field: a plot's first sentences


class Escape:
    """Keeps a catalogue's text inside its field.

    A field ends with its line, so that line breaks become spaces; what reads as a blank's mark ("[blank 2]") or as a
    special token of the tokenizer or of a known chat format is broken by a space, so that no text opens a turn, ends
    the document, or fills in a blank that it is not asked for.
    """

    _BLANK = re.compile(r"\[(?=\s*blank\b)", re.IGNORECASE)

    def __init__(self, special: Iterable[str] = ()) -> None:
        self._special = pattern_of(special, re.IGNORECASE)

    def __call__(self, text: str, longest: int = LONGEST) -> str:
        """The text on one line, at most `longest` characters, without anything that leaves a field."""
        printable = "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text)
        kept = normalise(printable)[:longest]
        return broken(kept, FORMATS, self._special, first=lambda text: self._BLANK.sub("(", text)).strip()


_LINE_BREAKS = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")  # what str.splitlines splits at


def in_field(text: str) -> str:
    """The text on one line, special tokens of known chat formats broken; any other text as it is, byte for byte.

    For prompts whose bytes key answers that stores hold already, where `Escape` would change harmless titles.
    """
    text = _LINE_BREAKS.sub(" ", text)
    return broken(text, FORMATS) if "<" in text or "[" in text else text  # every format's marks begin with these


def escaped(facts: Facts, inside: Callable[[str], str] = in_field) -> Facts:
    """The facts with every text of the catalogue and of the user's profile kept inside its place."""
    return replace(
        facts,
        titles=tuple(
            replace(title, name=inside(title.name), categories=tuple(map(inside, title.categories)))
            for title in facts.titles
        ),
        categories=tuple(replace(category, name=inside(category.name)) for category in facts.categories),
        profile={inside(key): inside(text) for key, text in facts.profile.items()},
        recurring=tuple((inside(name), count) for name, count in facts.recurring),
    )
