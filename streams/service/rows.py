"""Behaviours in a request's body: one object, a list, or lines (NDJSON); bad ones are named by their index."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import msgspec

from interest.types import Behavior
from streams.kafka.messages import Refusal, check_behavior
from streams.service.problems import ProblemError

MOST = 10_000  # behaviours of one request
_RAW = msgspec.json.Decoder(list[msgspec.Raw])
_BEHAVIOR = msgspec.json.Decoder(Behavior)


class Refused(msgspec.Struct, frozen=True):
    """A row that cannot be used."""

    index: int  # in the request, from 0
    reason: str


class Rows(msgspec.Struct, frozen=True):
    """A request's behaviours, and what was not one."""

    behaviors: Sequence[Behavior]
    refused: Sequence[Refused]


def read_rows(body: bytes, content_type: str) -> Rows:
    """Raises ProblemError where the body as a whole cannot be read, or holds too many."""
    good: list[Behavior] = []
    refused: list[Refused] = []
    for index, raw in enumerate(_parts(body, content_type)):
        try:
            found = check_behavior(_BEHAVIOR.decode(raw), time.time())
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            found = Refusal(str(error) or type(error).__name__)
        if isinstance(found, Refusal):
            refused.append(Refused(index, found.reason))
        else:
            good.append(found)
    return Rows(good, refused)


def _parts(body: bytes, content_type: str) -> Sequence[bytes | msgspec.Raw]:
    parts: Sequence[bytes | msgspec.Raw]
    if "ndjson" in content_type or "jsonl" in content_type:
        parts = [line for line in body.splitlines() if line.strip()]
    elif body.lstrip()[:1] == b"[":
        try:
            parts = _RAW.decode(body)
        except msgspec.DecodeError as error:
            raise ProblemError(422, f"the body is not JSON: {error}", field="body") from None
    else:
        try:
            json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ProblemError(422, f"the body is not JSON: {error}", field="body") from None
        parts = [body]
    if not parts:
        raise ProblemError(422, "the body holds no behaviour", field="body")
    if len(parts) > MOST:
        raise ProblemError(413, f"the body holds {len(parts):,} behaviours; {MOST:,} is the most", field="body")
    return parts
