"""What the scoring service answers, as its Python client reads it."""

from __future__ import annotations

from typing import Any

import msgspec


class Score(msgspec.Struct, frozen=True, kw_only=True):
    item_id: str
    score: float  # probability of a positive, or what `blend` makes of the tasks
    unknown_item: bool = False
    tasks: dict[str, float] | None = None  # of an artifact of several tasks: each one's score


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Of one user's items, in the order asked for; with `top`, best first."""

    user_id: str
    artifact: str
    scores: list[Score]
    unknown_user: bool
    at: float
    newest_seq: int
    newest_at: float | None
    held: bool
    unknown_scene: bool = False  # a scene was named that the artifact makes nothing of
    stale_s: float | None = None  # the store does not answer: seconds since it was last asked about the user


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    reason: str


class Written(msgspec.Struct, frozen=True, kw_only=True):
    accepted: int
    duplicates: int
    refused: list[Refused]
    offers: int = 0  # of an older service: none are told


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first; `next` asks for the following page, None: this was the last."""

    items: list[dict[str, Any]]
    next: int | None


class Representation(msgspec.Struct, frozen=True, kw_only=True):
    user_id: str
    artifact: str
    index: int
    vector: list[float]
    common: list[float] | None = None  # in the artifact's common space; of an older service, like all below: none
    encoder: str = ""
    liked: list[float] | None = None
    disliked: list[float] | None = None


class Update(msgspec.Struct, frozen=True):
    """Something new about a user: `kind` is ready (the first), behavior, partition, interest or representation."""

    kind: str
    told: dict[str, Any]


class Batch(msgspec.Struct, frozen=True):
    answers: list[Scores]


class Told:
    """Server-sent events, line by line."""

    def __init__(self) -> None:
        self._kind = ""

    def read(self, line: str) -> Update | None:
        """The event that this line completes; most do not."""
        if line.startswith("event: "):
            self._kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            return Update(self._kind, msgspec.json.decode(line.removeprefix("data: ")))
        return None
