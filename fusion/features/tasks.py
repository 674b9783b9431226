"""What a model learns to predict: named tasks, each by a label rule. One is trained; the shape holds several."""

from __future__ import annotations

import msgspec

from fusion.features.labels import LabelRule

NAME = "ctr"  # of the task where a dataset has one


class Task(msgspec.Struct, frozen=True):
    """A probability that a model gives: that an event is a positive by `rule`."""

    name: str
    rule: LabelRule
    weight: float = 1.0  # of its loss among the tasks'

    @classmethod
    def parse(cls, rule: str) -> Task:
        """The one task of a label rule in its text form. Raises InputError for a text that is not a rule."""
        return cls(NAME, LabelRule.parse(rule))


Tasks = tuple[Task, ...]


def only(tasks: Tasks) -> Task:
    """The task that is trained. Raises ValueError where there is not exactly one: no model here learns several yet."""
    if len(tasks) != 1:
        raise ValueError(f"one task is trained, not {len(tasks)}: {', '.join(task.name for task in tasks) or 'none'}")
    return tasks[0]
