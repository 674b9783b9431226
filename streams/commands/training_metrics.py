"""What `train` prints of its tasks, its epochs and its metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from fusion.features.dataset import Dataset
    from fusion.features.tasks import Tasks
    from fusion.training.artifact import Metrics
    from fusion.training.checkpoint import Epoch

BALANCED = "training"  # the part of the metrics that says what became of the tasks' gradients


def task_lines(dataset: Dataset) -> Iterator[str]:
    """What each of several tasks learns from; nothing where there is one."""
    import numpy as np

    if dataset.targets is None:
        return
    for task, column in zip(dataset.spec.tasks, dataset.targets.T, strict=True):
        own = column[~np.isnan(column)]
        held = f"mean {own.mean():.4g}" if task.rule.is_number else f"{own.mean():.1%} positive"
        weight = f", weight {task.weight:g}" if task.weight != 1.0 else ""
        yield f"task {task.name}: {task.rule}, of {len(own):,} of {len(column):,} samples, {held}{weight}"
        if without := task.rule.without_logarithm(dataset.log):
            yield (
                f"task {task.name}: of {without:,} behaviours it learns nothing, as {task.rule.field} there is 0 or "
                "less, which has no logarithm"
            )


def key_lines(dataset: Dataset) -> Iterator[str]:
    """Which keys are read, where any are."""
    keys = dataset.spec.keys
    if keys is not None:
        named = (f"{name} ({len(keys.attributes[name]):,})" if name in keys.attributes else name for name in keys.kinds)
        yield f"keys: {', '.join(named)}; a key is forgotten after {keys.window:,} behaviours without it"


def print_epoch(epoch: Epoch, tasks: Tasks) -> None:
    best = ", the best so far" if epoch.best else ""
    each = ""
    if isinstance(epoch.tasks, dict):
        unit = {task.name: "RMSE" if task.rule.is_number else "AUC" for task in tasks}
        each = f" ({', '.join(f'{name} {unit[name]} {value:.4f}' for name, value in epoch.tasks.items())})"
    typer.echo(f"epoch {epoch.epoch + 1}: loss {epoch.loss:.4f}, validation AUC {epoch.auc:.4f}{each}{best}", err=True)


def print_metrics(metrics: Metrics) -> None:
    """Of one task a table; of several one for each, and what became of their gradients."""
    parts = {part: held for part, held in metrics.items() if part != BALANCED}
    tasks = list(dict.fromkeys(name.partition("/")[0] for name in next(iter(parts.values())) if "/" in name))
    for task in tasks:
        _table(f"task {task}", {part: _of_task(held, task) for part, held in parts.items()})
    if not tasks:
        _table("metric", parts)
    if BALANCED in metrics:
        held = metrics[BALANCED]
        print(
            f"balanced steps: {held['steps']:,.0f}; tasks in conflict in {held['conflict_share']:.1%} of them, "
            f"no common direction in {held['zero_share']:.1%}"
        )


def _of_task(held: dict[str, float], task: str) -> dict[str, float]:
    return {name.partition("/")[2]: value for name, value in held.items() if name.startswith(f"{task}/")}


def _cell(name: str, value: float) -> str:
    """A dash where a slice has no rows, or rows of one kind alone."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if name.endswith("rows") else f"{value:.4f}"


def _table(title: str, parts: Metrics) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(title)
    for part in parts:
        table.add_column(part, justify="right")
    for name in next(iter(parts.values())):
        table.add_row(name.replace("_", " "), *(_cell(name, parts[part][name]) for part in parts))
    Console(width=80).print(table)
