"""Training documents: texts in pieces, of which some are asked for (they carry the loss) and the others only read.

Decides what a document carries and how a catalogue's text is kept inside its field. Knows nothing of tokens or models.
"""

from __future__ import annotations

import enum
import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from interest.facts.past_tense import normalise

LONGEST = 400  # characters of one field: a plot's first sentences


class Kind(enum.StrEnum):
    """What a document is made of, by which mixing ratios and perplexities are told apart."""

    ITEM = "item"  # one item, field by field
    RELATED = "related"  # items that the same users liked, the like beside the like
    HISTORY = "history"  # what one user did, with the values
    READING = "reading"  # questions about the catalogue and their answers
    FACTS = "facts"  # counts of one user's behaviours, and sentences that they support
    GENERAL = "general"  # the base model's own answers to questions of every sort


class Piece(NamedTuple):
    text: str
    asked: bool  # whether its tokens carry the loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document of continual pre-training.

    chat: its pieces are the turns of a conversation (system, user or both, then the answer, which alone is asked for)
    and are put into the model's chat template; otherwise they are read one after the other as they stand.
    user: whose private history it tells; None where it is of nobody in particular.
    until: event time of the newest behaviour that it tells or was ordered by; None where it tells none.
    """

    kind: Kind
    pieces: tuple[Piece, ...]
    chat: bool = False
    user: str | None = None
    until: float | None = None

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


def dialogue(question: str, answer: str, *, system: str = "") -> tuple[Piece, ...]:
    """The turns of one question and its answer; the system's turn is left out where it is empty."""
    first = (Piece(system, asked=False),) if system else ()
    return (*first, Piece(question, asked=False), Piece(answer, asked=True))


class Escape:
    """Keeps a catalogue's text inside its field.

    A field ends with its line, so that line breaks become spaces; what reads as a blank's mark ("[blank 2]") or as a
    special token of the tokenizer or of a known chat format is broken by a space, so that no text opens a turn, ends
    the document, or fills in a blank that it is not asked for.
    """

    _FORMATS = re.compile(r"<\|[^|<>]{0,40}\|>|</?s>|<</?SYS>>|\[/?INST\]|<(?:start|end)_of_turn>", re.IGNORECASE)
    _BLANK = re.compile(r"\[(?=\s*blank\b)", re.IGNORECASE)

    def __init__(self, special: Iterable[str] = ()) -> None:
        tokens = sorted({token for token in special if token.strip()}, key=lambda token: (-len(token), token))
        self._special = re.compile("|".join(map(re.escape, tokens))) if tokens else None

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


def drawn(key: str, seed: int, share: float) -> bool:
    """Whether a key falls into a share of 0 to 1, by its hash: the same at every run, and alone in deciding."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64
