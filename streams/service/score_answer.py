"""What was scored, as the answer to a request: one score an item, those of several tasks, the best first if asked."""

from __future__ import annotations

from itertools import starmap
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from fusion.serving.by_task import blended, parse_blend, rows_of
from fusion.serving.live import LiveScores
from interest.errors import InputError
from streams.service import models
from streams.service.problems import ProblemError

Id = Annotated[str, Meta(min_length=1, max_length=models.LONGEST_ID)]


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request of scores, decoded in a tenth of the time that `models.ScoreRequest` takes, whose fields it has.

    What this refuses is decoded again as that, which takes some more and says what is wrong.
    """

    user_id: Id
    item_ids: Annotated[list[Id], Meta(min_length=1, max_length=models.MOST_CANDIDATES)]
    top: Annotated[int, Meta(ge=1)] | None = None
    at: Annotated[float, Meta(ge=0, lt=models.TIMES_END)] | None = None
    scene: Id | None = None
    blend: Annotated[str, Meta(min_length=1, max_length=models.LONGEST_BLEND)] | None = None


class Score(msgspec.Struct, frozen=True):
    """The fields of `models.Score`."""

    item_id: str
    score: float
    unknown_item: bool
    tasks: dict[str, float] | msgspec.UnsetType = msgspec.UNSET


class Answer(msgspec.Struct, frozen=True):
    """The fields of `models.ScoreAnswer`."""

    user_id: str
    artifact: str
    scores: list[Score]
    unknown_user: bool
    unknown_scene: bool
    at: float
    newest_seq: int
    newest_at: float | None
    held: bool
    stale_s: float | None


def score_answer(asked: models.ScoreRequest | Asked, artifact: str, found: LiveScores) -> Answer:
    """Raises ProblemError for a blend that the artifact's tasks cannot make."""
    values = found.values
    if asked.blend is not None:
        try:
            blend = parse_blend(asked.blend, found.tasks or (), "blend")
        except InputError as error:
            raise ProblemError(422, str(error), field="blend") from None
        values = blended(found.tasks or {}, blend)
    columns: list[list[Any]] = [asked.item_ids, values.tolist(), found.unknown_item.tolist()]
    if found.tasks is not None:
        columns.append(rows_of(found.tasks, len(values)))
    scores = list(starmap(Score, zip(*columns, strict=True)))
    if asked.top is not None:
        scores = sorted(scores, key=lambda one: -one.score)[: asked.top]
    return Answer(
        asked.user_id, artifact, scores, found.unknown_user, found.unknown_scene, found.at, found.newest,
        found.newest_at, found.held, found.stale_s,
    )  # fmt: skip
