"""Control tokens in text that is data: breaks them by a space, so that no title opens a turn or ends one.

Decides what counts as one: the marks of known chat formats, and what a tokenizer reads as a token of its own. Text
without any comes back as it is, byte for byte, for prompts key the stored answers. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

FORMATS = re.compile(
    r"<[|\uff5c][^|\uff5c<>]{0,40}[|\uff5c]>|</?s>|<</?SYS>>|\[/?INST\]|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"<.+>|\[.+\]", re.DOTALL
)  # of tokens that are not declared special: <think>, but no run of spaces


def pattern_of(tokens: Iterable[str], flags: int = 0) -> re.Pattern[str] | None:
    """Finds any of the tokens, the longest first; None where there are none."""
    told = sorted({token for token in tokens if token.strip()}, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, told)), flags) if told else None


def control_tokens(tokenizer: Any) -> list[str]:
    """What a tokenizer of transformers reads as a token of its own: its special tokens, and markup added to it."""
    added = tokenizer.added_tokens_decoder.values()
    marks = (token.content for token in added if token.special or _MARKUP.fullmatch(token.content))
    return sorted({*tokenizer.all_special_tokens, *marks})


def broken(text: str, *patterns: re.Pattern[str] | None, first: Callable[[str], str] = lambda text: text) -> str:
    """The text with a space after the first letter of whatever a pattern finds.

    first: applied before the patterns, each time that they are. Where breaking one token leaves another again and
    again, only letters and digits stay.
    """
    kept = text
    for _ in range(8):  # breaking one token may leave another, seldom twice
        found = first(kept)
        for pattern in patterns:
            found = pattern.sub(_apart, found) if pattern else found
        if found == kept:
            return kept
        kept = found
    return "".join(letter for letter in kept if letter.isalnum() or letter == " ")


def _apart(match: re.Match[str]) -> str:
    """The first letter of what was found, a space, the rest; a token of one letter goes."""
    found = match[0]
    return f"{found[0]} {found[1:]}" if len(found) > 1 else " "
