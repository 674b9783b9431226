"""Scores of several tasks: by name, and as one score, that of the main task or what `--blend` makes of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from fusion.features.log import Array
from fusion.features.tasks import Tasks, main_task
from interest.errors import InputError

_NAME, _FACTOR = "[A-Za-z][A-Za-z0-9_-]*", r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_TERM = re.compile(rf"\s*(?:({_NAME})(?:\s*\*\s*({_FACTOR}))?|({_FACTOR})\s*\*\s*({_NAME}))\s*")
EXAMPLE = "write for example like*0.7+watched*0.3"
Blend = Mapping[str, float]  # what each task's score is multiplied by


def parse_blend(text: str, tasks: Iterable[str], given: str = "--blend") -> Blend:
    """A sum of tasks, each with a factor if it is not 1. tasks: the names of an artifact's several; none: it has one.

    Raises InputError for what is not such a sum, or names a task that the artifact lacks.
    """
    names, blend = list(tasks), dict[str, float]()
    if not names:
        raise InputError(f"{given} {text!r}: the artifact has one task, whose probability is the score; leave it out")
    place = 0
    while place <= len(text):
        match = _TERM.match(text, place)
        if match is None or text[match.end() : match.end() + 1] not in ("", "+"):
            term = text[place:].partition("+")[0].strip()
            raise InputError(f"{given} {text!r}: {term!r} is not NAME*NUMBER; {EXAMPLE}")
        place = match.end() + 1
        name = match[1] or match[4]
        if name not in names:
            raise InputError(f"{given} {text!r}: the artifact has no task {name}; it has {', '.join(names)}")
        blend[name] = blend.get(name, 0.0) + float(match[2] or match[3] or 1.0)
        if math.isinf(blend[name]):
            raise InputError(f"{given} {text!r}: the factor of {name} is too large")
    return blend


def on_two_scales(blend: Blend, tasks: Tasks) -> str | None:
    """What to say of a blend that adds numbers to probabilities, or numbers of different rules; None for others."""
    own = [task for task in tasks if task.name in blend]
    numbers = [task for task in own if task.rule.is_number]
    if not numbers or len({str(task.rule) if task.rule.is_number else "" for task in own}) < 2:
        return None
    listed = ", ".join(f"{task.name} ({task.rule})" for task in numbers)
    others = "probabilities, which are from 0 to 1" if len(own) > len(numbers) else "each other"
    return (
        f"--blend adds what is not on one scale: {listed} to {others}; choose factors by the scores' ranges, or the "
        "widest decides the order"
    )


def blended(by_task: Mapping[str, Array], blend: Blend) -> Array:
    """(n,) float64: the sum of the tasks' scores."""
    return np.asarray(sum(by_task[name] * factor for name, factor in blend.items()), dtype=np.float64)


def task_names(tasks: Tasks) -> list[str]:
    """Of several tasks; none where there is one, which is the score."""
    return [task.name for task in tasks] if len(tasks) > 1 else []


def by_task(tasks: Tasks, values: Array) -> dict[str, Array] | None:
    """Scores (n, T) by the tasks' names; None for those of one task, (n,)."""
    return None if values.ndim == 1 else {task.name: values[:, number] for number, task in enumerate(tasks)}


def main_score(tasks: Tasks, values: Array) -> Array:
    """(n,): the main task's scores."""
    return values if values.ndim == 1 else values[:, main_task(tasks)]


def empty_scores(many: int, tasks: Tasks) -> Array:
    """Room for the scores of so many pairs: (n,), or (n, T) of several tasks."""
    return np.empty(many if len(tasks) == 1 else (many, len(tasks)))


def rows_of(scores: Mapping[str, Array] | None, many: int) -> list[dict[str, float] | None]:
    """The tasks' scores of so many pairs, pair by pair; None for each where there is one task."""
    if scores is None:
        return [None] * many
    columns = [column.tolist() for column in scores.values()]
    return [dict(zip(scores, row, strict=True)) for row in zip(*columns, strict=True)]
