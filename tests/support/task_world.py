"""Small logs of several tasks: ratings, half of which are also long or short plays."""

from __future__ import annotations

import dataclasses

from sqlalchemy import Connection

from fusion.features.dataset import Dataset, read_dataset
from fusion.features.tasks import Tasks, parse_tasks
from tests.support.small_models import DATA

TASKS: Tasks = parse_tasks(["like=value>=4", "love=value>=5 if value>=3@0.5", "stars=value"])


def tasks_dataset(connection: Connection, tasks: Tasks = TASKS) -> Dataset:
    """The store's samples for the tasks."""
    return read_dataset(connection, dataclasses.replace(DATA, tasks=tasks))
