"""Reads the JSON answer of a model: the text and its evidence numbers, in whatever wrapping it comes.

Servers that do not enforce a schema send it in code fences, among other words, with further fields, or with numbers as
text. All that can be read is used; what it claims is checked elsewhere. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_FENCED = re.compile(r"```[\w-]*\s*(.*?)\s*(?:```|$)", re.DOTALL)
_CUT_OFF = re.compile(r'"text"\s*:\s*"((?:[^"\\]|\\.)*)')  # a text that the token limit has cut
_NUMBER = re.compile(r"\d+")
_MOST = 20  # places where an object may begin that are tried: a reply is a few hundred tokens


def read_answer(reply: str) -> tuple[str, tuple[int, ...]]:
    """The text and the evidence numbers; an empty text where there is no answer in the reply."""
    for found in _objects(reply):
        if (text := _string(found.get("text"))) is not None:
            return text, tuple(_numbers(found.get("evidence")))
    if (cut := _CUT_OFF.search(reply)) is not None:
        try:
            return _string(json.loads(f'"{cut[1]}"', strict=False)) or "", ()
        except ValueError:
            return "", ()
    return "", ()


def read_statements(reply: str) -> Iterator[tuple[int, str, str]]:
    """Each statement of the answer about a title: its number, what it is about, what it says. Unreadable ones go."""
    for found in _objects(reply):
        if _string(found.get("text")) is None:
            continue
        entries = found.get("knowledge")
        for entry in entries if isinstance(entries, list) else ():
            fields = (
                {str(name).strip().lower(): inner for name, inner in entry.items()} if isinstance(entry, dict) else {}
            )
            number, says = next(_numbers(fields.get("item")), None), _string(fields.get("says"))
            about = _string(fields.get("about"))
            if number is not None and about is not None and says is not None:
                yield number, about.strip().lower(), says
        return


def bare(reply: str) -> str:
    """A plain text without the code fence that may be around all of it."""
    match = _FENCED.fullmatch(reply.strip())
    return match[1] if match else reply


def _objects(reply: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a reply, in order; an object inside a fence or a list counts."""
    decoder = json.JSONDecoder(strict=False)
    for match in list(re.finditer(r"\{", reply))[:_MOST]:
        try:
            value, _ = decoder.raw_decode(reply, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield {str(name).strip().lower(): inner for name, inner in value.items()}


def _string(value: Any) -> str | None:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = " ".join(value)
    return value.encode("utf-8", "replace").decode().replace("\0", "") if isinstance(value, str) else None


def _numbers(value: Any) -> Iterator[int]:
    """52, 52.0, "52", "[52]", "52, 53", {"seq": 52} and lists of these."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        if value == value // 1 and abs(value) < 1e15:
            yield int(value)
    elif isinstance(value, str):
        yield from (int(digits) for digits in _NUMBER.findall(value) if len(digits) < 16)
    elif isinstance(value, dict):
        for inner in value.values():
            if isinstance(inner, int) and not isinstance(inner, bool):
                yield inner
                break
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner)
