"""`interestream train din`: from the store to an artifact, with its metrics. Torch is imported only when it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from streams.commands.options import Store
from streams.progress import progress
from streams.settings import store_url

if TYPE_CHECKING:
    from fusion.artifact import Metrics
    from fusion.checkpoint import Epoch

train = typer.Typer(help="Train a CTR model on the store; one sub-command per model.", no_args_is_help=True)


@train.command("din")
def din(
    out: Annotated[Path, typer.Option(help="folder of the artifact; an interrupted run there is continued")],
    store: Store = None,
    interest: Annotated[bool, typer.Option(help="use the interests' vectors (UIF)")] = True,
    label: Annotated[str, typer.Option(help="what a positive is: value>=4, action=purchase...")] = "value>=4",
    split: Annotated[Literal["global", "user"], typer.Option(help="80/10/10 by time, or inside every user")] = "global",
    epochs: Annotated[int, typer.Option(min=1)] = 6,
    seed: Annotated[int, typer.Option()] = 0,
    history: Annotated[int, typer.Option(min=1, help="recent events that attention reads")] = 50,
    min_history: Annotated[int, typer.Option(min=0, help="earlier events a sample needs")] = 5,
    batch_size: Annotated[int, typer.Option(min=1)] = 1024,
    lr: Annotated[float, typer.Option(min=0.0, help="peak learning rate")] = 2e-3,
    threads: Annotated[int | None, typer.Option(min=1, help="processor threads; default: all")] = None,
    prompt_version: Annotated[str | None, typer.Option(help="which interests, where the store holds several")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="which text encoder's vectors, where the store holds several")
    ] = None,
    generation: Annotated[int, typer.Option(min=0, help="which partitioning of the log")] = 0,
) -> None:
    """Train DIN on the store's behaviours; report its metrics and write the artifact."""
    import torch

    from fusion import experiment
    from fusion.artifact import load_artifact
    from fusion.dataset import DatasetConfig, read_dataset
    from fusion.din import DinConfig
    from fusion.labels import LabelRule
    from fusion.represent import represent
    from fusion.splits import TRAIN
    from fusion.train import TrainConfig
    from streams.store import open_store

    if threads:
        torch.set_num_threads(threads)
    data = DatasetConfig(
        label=LabelRule.parse(label),
        split=split,
        history=history,
        min_history=min_history,
        interest=interest,
        generation=generation,
        prompt_version=prompt_version,
        encoder=encoder,
    )
    settings = TrainConfig(epochs=epochs, seed=seed, batch_size=batch_size, lr=lr)
    engine = open_store(store_url(store), create=False)
    with progress("Reading the log", None, unit="behaviours") as advance, engine.connect() as connection:
        dataset = read_dataset(connection, data, advance)
    began, rows = time.monotonic(), len(dataset.of(TRAIN))
    with progress("Training", epochs * rows, unit="samples") as advance:
        metrics = experiment.run(
            dataset,
            DinConfig(interest=interest),
            settings,
            split=split,
            folder=out,
            advance=advance,
            report=_print_epoch,
        )
    artifact = load_artifact(out)
    _print_metrics(metrics)
    print(f"artifact {artifact.id} in {out} ({time.monotonic() - began:.0f} s)")
    if interest:
        with progress("Representing users", None, unit="partitions") as advance:
            stored = represent(engine, artifact, advance)
        print(f"{stored:,} representations under {artifact.id}")


def _print_epoch(epoch: Epoch) -> None:
    best = ", the best so far" if epoch.best else ""
    typer.echo(f"epoch {epoch.epoch + 1}: loss {epoch.loss:.4f}, validation AUC {epoch.auc:.4f}{best}", err=True)


def _print_metrics(metrics: Metrics) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    for part in metrics:
        table.add_column(part, justify="right")
    for name in next(iter(metrics.values())):
        cells = [metrics[part][name] for part in metrics]
        table.add_row(name.replace("_", " "), *(f"{v:,.0f}" if name.endswith("rows") else f"{v:.4f}" for v in cells))
    Console(width=80).print(table)
