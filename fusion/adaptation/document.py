"""Training documents: texts in pieces, of which some are asked for (they carry the loss) and the others only read.

Decides what a document carries. Knows nothing of tokens or models.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


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

    chat: its pieces are the turns of a conversation (the system's where their number is odd, then the user's and the
    assistant's in turn; the last answer alone is asked for) and are put into the model's chat template; otherwise they
    are read one after the other as they stand.
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


def dialogue(question: str, answer: str, *, system: str = "", example: Sequence[str] = ()) -> tuple[Piece, ...]:
    """The turns of one question and its answer; the system's turn is left out where it is empty.

    example: a question and its answer that stand before, or several of them in turn; they are read alone.
    """
    read = [*([system] if system else []), *example, question]
    return (*(Piece(text, asked=False) for text in read), Piece(answer, asked=True))


def drawn(key: str, seed: int, share: float) -> bool:
    """Whether a key falls into a share of 0 to 1, by its hash: the same at every run, and alone in deciding."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64
