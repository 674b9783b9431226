"""`interestream train`: from the store to an artifact, with its metrics. Torch is imported only when it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from interest.errors import InputError
from streams.commands.options import Store
from streams.progress import progress
from streams.settings.load import store_url

if TYPE_CHECKING:
    import torch
    from sqlalchemy import Connection

    from fusion.features.dataset import Dataset, DatasetConfig
    from fusion.models.registry import ModelConfig
    from fusion.training.artifact import Metrics
    from fusion.training.checkpoint import Epoch
    from fusion.training.train import TrainConfig

train = typer.Typer(help="Train a CTR model on the store; one sub-command per model.", no_args_is_help=True)

Out = Annotated[
    Path, typer.Option(help="folder, new or empty, or of the same kind; an interrupted run there is continued")
]
Interest = Annotated[bool, typer.Option(help="use the interests' vectors (UIF)")]
Label = Annotated[str, typer.Option(help="what a positive is: value>=4, action=purchase...")]
SplitBy = Annotated[Literal["global", "user"], typer.Option(help="80/10/10 by time, or inside every user")]
History = Annotated[int, typer.Option(min=1, help="recent events that attention reads")]
MinHistory = Annotated[int, typer.Option(min=0, help="earlier events a sample needs")]
Rate = Annotated[float, typer.Option(min=0.0, help="peak learning rate")]
Threads = Annotated[int | None, typer.Option(min=1, help="processor threads; default: all")]
PromptVersion = Annotated[str | None, typer.Option(help="which interests, where the store holds several")]
Encoder = Annotated[str | None, typer.Option(help="which text encoder's vectors, where the store holds several")]
Generation = Annotated[int, typer.Option(min=0, help="which partitioning of the log")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one")]
Together = Annotated[int, typer.Option(min=1, help="neighbouring moments that share an encoded history in training")]


@train.command("din")
def din(
    out: Out,
    store: Store = None,
    interest: Interest = True,
    label: Label = "value>=4",
    split: SplitBy = "global",
    epochs: Annotated[int, typer.Option(min=1)] = 6,
    seed: Annotated[int, typer.Option()] = 0,
    history: History = 50,
    min_history: MinHistory = 5,
    batch_size: Annotated[int, typer.Option(min=1)] = 1024,
    lr: Rate = 2e-3,
    threads: Threads = None,
    device: Device = "auto",
    prompt_version: PromptVersion = None,
    encoder: Encoder = None,
    generation: Generation = 0,
) -> None:
    """Train DIN on the store's behaviours; report its metrics and write the artifact."""
    from fusion.features.dataset import DatasetConfig
    from fusion.features.labels import LabelRule
    from fusion.models.din import DinConfig
    from fusion.training.out_folder import check_out
    from fusion.training.train import TrainConfig

    check_out(out, "din")
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
    run_training(store, out, data, settings, lambda _: (DinConfig(interest=interest), _nothing), threads, device)


@train.command("srp4ctr")
def srp4ctr(
    out: Out,
    pretrained: Annotated[
        Path | None, typer.Option(help="what `interestream pretrain fgbert` wrote; without it nothing is pre-trained")
    ] = None,
    store: Store = None,
    interest: Interest = False,
    label: Label = "value>=4",
    split: SplitBy = "global",
    epochs: Annotated[int, typer.Option(min=1)] = 4,
    seed: Annotated[int, typer.Option()] = 0,
    history: History = 50,
    min_history: MinHistory = 5,
    batch_size: Annotated[int, typer.Option(min=1)] = 1024,
    lr: Rate = 2e-3,
    together: Together = 15,
    value_task: Annotated[
        float, typer.Option(min=0.0, help="weight of a second task in training: which value the user gives; 0: none")
    ] = 0.5,
    lifelong: Annotated[bool, typer.Option(help="sums over the whole past beside the encoded history")] = True,
    embedding_decay: Annotated[float, typer.Option(min=0.0, help="decoupled weight decay of embeddings")] = 0.2,
    pretrained_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="learning rate of pre-trained weights, as a share of --lr: 0 freezes; default 1"
        ),
    ] = None,
    form: Annotated[
        Literal["full", "no-cross", "no-querying", "mp"],
        typer.Option(
            help="full, or an ablation: without uni cross-attention, without queries, or pooled outputs alone"
        ),
    ] = "full",
    threads: Threads = None,
    device: Device = "auto",
    prompt_version: PromptVersion = None,
    encoder: Encoder = None,
    generation: Generation = 0,
) -> None:
    """Train SRP4CTR on the store's behaviours, from a pre-trained encoder or from nothing.

    Several processes share the work under torchrun: torchrun --nproc-per-node 2 -m streams train srp4ctr ...
    """
    from fusion.features.dataset import DatasetConfig
    from fusion.features.labels import LabelRule
    from fusion.models.srp4ctr.model import ablations
    from fusion.training.out_folder import check_out
    from fusion.training.pretrained import encoder_for, load_pretrained, take_over
    from fusion.training.train import TrainConfig

    if pretrained is None and pretrained_rate is not None:
        raise InputError(
            "--pretrained-rate needs --pretrained: there are no pre-trained weights to slow down or freeze"
        )
    if pretrained is not None and pretrained.resolve() == out.resolve():
        raise InputError(f"--out {out} is the pre-training itself; give another folder")
    check_out(out, "srp4ctr")
    held = None if pretrained is None else load_pretrained(pretrained)
    data = DatasetConfig(
        label=LabelRule.parse(label),
        split=split,
        history=history,
        min_history=min_history,
        interest=interest,
        generation=generation,
        prompt_version=prompt_version,
        encoder=encoder,
        value_edges=None if held is None else held.spec.value_edges,
    )
    settings = TrainConfig(
        epochs=epochs,
        seed=seed,
        batch_size=batch_size,
        lr=lr,
        embedding_decay=embedding_decay,
        pretrained_rate=1.0 if pretrained_rate is None else pretrained_rate,
    )

    def model(dataset: Dataset) -> tuple[ModelConfig, Callable[[torch.nn.Module], None]]:
        own = encoder_for(held, dataset, split=split, positions=history + together - 1)
        more = {"value_task": value_task, "lifelong": lifelong, "interest": interest}
        config = ablations(own, pack=together, pretrained="" if held is None else held.id, **more)[form]
        return config, lambda fresh: take_over(fresh, dataset.spec, held)

    run_training(store, out, data, settings, model, threads, device)


def shown(title: str, total: int | None, unit: str) -> AbstractContextManager[Callable[[int], None]]:
    """A job's progress, by the first process where torchrun started several."""
    if os.environ.get("RANK", "0") != "0":
        return nullcontext(lambda _: None)
    return progress(title, total, unit=unit)


def _nothing(_: torch.nn.Module) -> None:
    pass


def run_training(
    store: str | None,
    out: Path,
    data: DatasetConfig,
    settings: TrainConfig,
    model: Callable[[Dataset], tuple[ModelConfig, Callable[[torch.nn.Module], None]]],
    threads: int | None,
    device: str,
    read: Callable[[Connection, Callable[[int], None]], Dataset] | None = None,
    llm: Path | None = None,
) -> None:
    """read: how the samples are read, if not as `data` says. llm: where the LLM of the model is."""
    import torch

    from fusion.features.dataset import read_dataset
    from fusion.features.splits import TRAIN
    from fusion.serving.user_vectors import represent
    from fusion.training import experiment
    from fusion.training.artifact import load_artifact
    from fusion.training.distributed import choose_device, processes
    from streams.store.engine import open_store

    if threads:
        torch.set_num_threads(threads)
    place = choose_device(device)
    engine = open_store(store_url(store), create=False)
    with processes(place) as dist:
        with shown("Reading the log", None, "behaviours") as advance, engine.connect() as connection:
            dataset = read_dataset(connection, data, advance) if read is None else read(connection, advance)
        config, prepare = model(dataset)
        began, rows = time.monotonic(), len(dataset.of(TRAIN))
        with shown("Training", settings.epochs * rows, "samples") as advance:
            metrics = experiment.run(
                dataset,
                config,
                settings,
                split=data.split,
                folder=out,
                advance=advance,
                report=_print_epoch if dist.first else _say_nothing,
                prepare=prepare,
                device=place,
                dist=dist,
            )
        if not dist.first:
            return
    artifact = load_artifact(out, llm)
    _print_metrics(metrics)
    print(f"artifact {artifact.id} in {out} ({time.monotonic() - began:.0f} s)")
    if data.interest:
        with progress("Representing users", None, unit="partitions") as advance:
            stored = represent(engine, artifact, advance)
        print(f"{stored:,} representations under {artifact.id}")


def _say_nothing(_: Epoch) -> None:
    pass


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
