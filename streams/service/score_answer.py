"""What was scored, as the answer to a request: one score an item, those of several tasks, the best first if asked."""

from __future__ import annotations

from typing import Any

from fusion.serving.by_task import blended, parse_blend, rows_of
from fusion.serving.live import LiveScores
from interest.errors import InputError
from streams.service import models
from streams.service.problems import ProblemError


def score_answer(asked: models.ScoreRequest, artifact: str, found: LiveScores) -> dict[str, Any]:
    """The fields of `models.ScoreAnswer`. Raises ProblemError for a blend that the artifact's tasks cannot make."""
    values = found.values
    if asked.blend is not None:
        try:
            blend = parse_blend(asked.blend, found.tasks or (), "blend")
        except InputError as error:
            raise ProblemError(422, str(error), field="blend") from None
        values = blended(found.tasks or {}, blend)
    rows = zip(asked.item_ids, values.tolist(), found.unknown_item.tolist(), strict=True)
    scores: list[dict[str, Any]] = [
        {"item_id": item, "score": value, "unknown_item": unknown} for item, value, unknown in rows
    ]
    for one, tasks in zip(scores, rows_of(found.tasks, len(scores)), strict=True):
        if tasks is not None:
            one["tasks"] = tasks
    if asked.top is not None:
        scores = sorted(scores, key=lambda one: -one["score"])[: asked.top]
    return {
        "user_id": asked.user_id,
        "artifact": artifact,
        "scores": scores,
        "unknown_user": found.unknown_user,
        "unknown_scene": found.unknown_scene,
        "at": found.at,
        "newest_seq": found.newest,
        "newest_at": found.newest_at,
        "held": found.held,
        "stale_s": found.stale_s,
    }
