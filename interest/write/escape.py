"""Keeps a catalogue's text inside its field of a prompt or a training document: on one line, without special tokens."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from interest.facts.past_tense import normalise

LONGEST = 400  # characters of one field: a plot's first sentences


class Escape:
    """Keeps a catalogue's text inside its field.

    A field ends with its line, so that line breaks become spaces; what reads as a blank's mark ("[blank 2]") or as a
    special token of the tokenizer or of a known chat format is broken by a space, so that no text opens a turn, ends
    the document, or fills in a blank that it is not asked for.
    """

    _FORMATS = re.compile(
        r"<[|\uff5c][^|\uff5c<>]{0,40}[|\uff5c]>|</?s>|<</?SYS>>|\[/?INST\]|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>",
        re.IGNORECASE,
    )
    _BLANK = re.compile(r"\[(?=\s*blank\b)", re.IGNORECASE)

    def __init__(self, special: Iterable[str] = ()) -> None:
        tokens = sorted({token for token in special if token.strip()}, key=lambda token: (-len(token), token))
        self._special = re.compile("|".join(map(re.escape, tokens)), re.IGNORECASE) if tokens else None

    def __call__(self, text: str, longest: int = LONGEST) -> str:
        """The text on one line, at most `longest` characters, without anything that leaves a field."""
        printable = "".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text)
        kept = normalise(printable)[:longest]
        for _ in range(8):  # breaking one token may leave another, seldom twice
            broken = self._FORMATS.sub(_apart, self._BLANK.sub("(", kept))
            broken = self._special.sub(_apart, broken) if self._special else broken
            if broken == kept:
                return kept.strip()
            kept = broken
        return "".join(letter for letter in kept if letter.isalnum() or letter == " ").strip()


def _apart(match: re.Match[str]) -> str:
    """The first letter of what was found, a space, the rest; a token of one letter goes."""
    found = match[0]
    return f"{found[0]} {found[1:]}" if len(found) > 1 else " "
