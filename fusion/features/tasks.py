"""What a model learns to predict: named tasks, one or several, each a yes or no of an event or a number of it.

Of several, the first that is a yes or no is the main one: it says which past behaviours were positives (in the
history, the counts and the match scalars), and its probability is the score where no other is asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec
import numpy as np

from fusion.features.labels import LabelRule
from fusion.features.log import Array, Log
from interest.errors import InputError

NAME = "ctr"  # of the task where a dataset has one that nobody named
EXAMPLE = "write for example --task like='value>=4' --task watched='seconds>=30'@2 --task stars=value"
_TASK = re.compile(r"\s*([A-Za-z][A-Za-z0-9_-]*)\s*=\s*(\S.*?)\s*(?:@\s*([0-9.eE+-]+)\s*)?")


class Task(msgspec.Struct, frozen=True):
    """What a model says of an event: the probability that it is a positive by `rule`, or the number `rule` is."""

    name: str
    rule: LabelRule
    weight: float = 1.0  # of its loss among the tasks'
    # mean and deviation of a number over the training events: a model learns it standardised; unset elsewhere
    scale: tuple[float, float] | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def parse(cls, rule: str) -> Task:
        """The one task of a label rule in its text form. Raises InputError for a text that is not a rule."""
        return cls(NAME, LabelRule.parse(rule))

    @property
    def given(self) -> str:
        """As whose part an error names it."""
        return "--label" if self.name == NAME else f"--task {self.name}:"


Tasks = tuple[Task, ...]


def parse_tasks(texts: Sequence[str]) -> Tasks:
    """Tasks written NAME=RULE, with their weight behind an @ if it is not 1. Raises InputError."""
    tasks: list[Task] = []
    for text in texts:
        match, given = _TASK.fullmatch(text), f"--task {text!r}"
        if match is None:
            raise InputError(f"{given} has no name of letters and digits before a =; {EXAMPLE}")
        name, rule, weight = match.groups()
        if any(task.name == name for task in tasks):
            raise InputError(f"--task {name} is there twice; give each task a name of its own")
        try:
            number = 1.0 if weight is None else float(weight)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise InputError(f"{given}: the weight {weight!r} is not a number above 0; {EXAMPLE}")
        tasks.append(Task(name, LabelRule.parse(rule, given, EXAMPLE), number))
    if all(task.rule.is_number for task in tasks):
        raise InputError(
            f"--task {', '.join(task.name for task in tasks)}: no task is a comparison, and models read from one what "
            "a positive is in a user's history; add one, for example --task like='value>=4'"
        )
    return tuple(tasks)


def main_task(tasks: Tasks) -> int:
    """The place of the main task: the first that is a yes or no."""
    return next(number for number, task in enumerate(tasks) if not task.rule.is_number)


def on_log(tasks: Tasks, log: Log) -> Tasks:
    """The tasks with what their rules have to know of the log. Raises InputError where it has no such thing."""
    if not log.size:
        return tasks
    return tuple(msgspec.structs.replace(task, rule=task.rule.on(log, task.given)) for task in tasks)


def targets_of(tasks: Tasks, log: Log) -> Array:
    """(N, T) float32: what each task's rule says of every event, NaN where that is nothing."""
    return np.stack([task.rule.targets(log) for task in tasks], axis=1)


def with_scales(tasks: Tasks, log: Log, train: Array) -> Tasks:
    """The tasks, numbers with their mean and deviation over the events `train` ((N,) bool)."""
    out = []
    for task in tasks:
        if task.rule.is_number:
            numbers = task.rule.targets(log)[train].astype(np.float64)
            numbers = numbers[~np.isnan(numbers)]
            mean, std = (float(numbers.mean()), float(numbers.std())) if len(numbers) else (0.0, 1.0)
            task = msgspec.structs.replace(task, scale=(mean, std if std > 0 else 1.0))  # noqa: PLW2901
        out.append(task)
    return tuple(out)


def places_of(tasks: Tasks, known: Tasks) -> tuple[int | None, ...]:
    """Of each task, which of the known ones it is, None for a new one: by its name, or where one of the two was given
    none (`--label`) by its rule.
    """
    named = {task.name: place for place, task in enumerate(known)}
    ruled = {str(task.rule): place for place, task in reversed([*enumerate(known)])}
    unnamed = NAME in named
    return tuple(
        named.get(task.name, ruled.get(str(task.rule)) if unnamed or task.name == NAME else None) for task in tasks
    )


def going_on(tasks: Tasks, known: Tasks, log: Log, train: Array) -> Tasks:
    """The tasks of a model that has learnt the known ones and goes on with these; numbers keep their scale.

    train: (N,) bool, the events by which a new number is scaled. Raises InputError where a known name has another
    rule, and where the main task is not the one that it was: what the model has learnt to read rests on that.
    """
    tasks = on_log(tasks, log)
    places, out = places_of(tasks, known), []
    main, own = known[main_task(known)], main_task(tasks)
    if places[own] != main_task(known) or str(tasks[own].rule) != str(main.rule):
        if str(tasks[own].rule) == str(main.rule):
            raise InputError(
                f"{tasks[own].given} {tasks[own].rule}: the main task of the model to go on from has this rule and the "
                f"name {main.name}; write --task {main.name}='{main.rule}', or train without --continue-from"
            )
        raise InputError(
            f"{tasks[own].given} {tasks[own].rule}: it would be the main task, and in the model to go on from that is "
            f"{main.rule}, by which it reads histories and counts; give that first, or train without --continue-from"
        )
    for task, place in zip(with_scales(tasks, log, train), places, strict=True):
        if place is None:
            out.append(task)
            continue
        was = known[place]
        if str(was.rule) != str(task.rule):
            raise InputError(
                f"{task.given} {task.rule}: the model to go on from has learnt {was.rule} by this name; give a new "
                "task a name of its own"
            )
        rule = msgspec.structs.replace(task.rule, offers=was.rule.offers)  # as it was learnt
        out.append(msgspec.structs.replace(task, rule=rule, scale=was.scale))
    return tuple(out)
