"""`interestream train`: from the store to an artifact, with its metrics. Torch is imported only when it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from interest.errors import InputError
from streams.commands.option_groups import CommandWithOldNames, with_groups
from streams.commands.training_options import (
    ComputeOptions,
    InterestOptions,
    KeyOptions,
    OptimiserOptions,
    Out,
    Pack,
    SampleOptions,
    TaskOptions,
)
from streams.commands.training_run import chosen_data, key_choice, run_training, train_config
from streams.settings.load import store_url

if TYPE_CHECKING:
    from fusion.features.dataset import Dataset
    from fusion.models.protocol import ModelConfig

train = typer.Typer(help="Train a CTR model on the store; one sub-command per model.", no_args_is_help=True)


@train.command("din", cls=CommandWithOldNames)
@with_groups
def din(
    out: Out,
    log: SampleOptions,
    tasks: TaskOptions,
    interests: InterestOptions,
    keys: KeyOptions,
    optimiser: OptimiserOptions,
    compute: ComputeOptions,
) -> None:
    """Train DIN on the store's behaviours; report its metrics and write the artifact.

    Several tasks at once, with the gradients that they share balanced:

    interestream train din --out DIR --task like='value>=4' --task love='value>=5'@0.5 --balance gdod
    """
    from fusion.models.din import DinConfig
    from fusion.training.out_folder import check_out
    from streams.store.engine import open_store

    check_out(out, "din")
    read = key_choice(keys)
    engine = open_store(store_url(log.store), create=False)
    settings = train_config(optimiser, tasks)
    data = chosen_data(engine, log, tasks, interests, read)
    config = DinConfig(interest=data.interest, dense_path=True, keys=keys.keys)
    run_training(engine, out, data, settings, lambda dataset: (dataset, config, as_built), compute)


@train.command("srp4ctr", cls=CommandWithOldNames)
@with_groups
def srp4ctr(
    out: Out,
    log: SampleOptions,
    tasks: TaskOptions,
    interests: InterestOptions,
    keys: KeyOptions,
    optimiser: OptimiserOptions,
    compute: ComputeOptions,
    pretrained: Annotated[
        Path | None,
        typer.Option(help="The folder that `interestream pretrain fgbert` wrote. Default: nothing is pre-trained."),
    ] = None,
    pretrained_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Learning rate of pre-trained weights as a share of --lr; 0 freezes them. Default: 1.",
        ),
    ] = None,
    pack: Pack = 15,
    value_task: Annotated[
        float,
        typer.Option(min=0.0, help="Weight of a second task in training: which value the user gives. 0: none."),
    ] = 0.5,
    lifelong: Annotated[
        bool, typer.Option(help="Read sums over the user's whole past beside the encoded history.")
    ] = True,
    embedding_decay: Annotated[float, typer.Option(min=0.0, help="Decoupled weight decay of embeddings.")] = 0.2,
    form: Annotated[
        Literal["full", "no-cross", "no-querying", "mp"],
        typer.Option(
            help="The full model, or an ablation: without uni cross-attention, without queries, or mean pooling alone."
        ),
    ] = "full",
) -> None:
    """Train SRP4CTR on the store's behaviours, from a pre-trained encoder or from nothing.

    Several processes share the work under torchrun: torchrun --nproc-per-node 2 -m streams train srp4ctr ...
    """
    from fusion.models.srp4ctr.model import ablations
    from fusion.training.out_folder import check_out
    from fusion.training.pretrained import encoder_for, load_pretrained, take_over
    from streams.store.engine import open_store

    if pretrained is None and pretrained_rate is not None:
        raise InputError(
            "--pretrained-rate needs --pretrained: there are no pre-trained weights to slow down or freeze"
        )
    if pretrained is not None and pretrained.resolve() == out.resolve():
        raise InputError(f"--out {out} is the pre-training itself; give another folder")
    check_out(out, "srp4ctr")
    read = key_choice(keys)
    held = None if pretrained is None else load_pretrained(pretrained)
    engine = open_store(store_url(log.store), create=False)
    edges = None if held is None else held.spec.value_edges
    settings = train_config(
        optimiser,
        tasks,
        embedding_decay=embedding_decay,
        pretrained_rate=1.0 if pretrained_rate is None else pretrained_rate,
    )
    data = chosen_data(engine, log, tasks, interests, read, value_edges=edges)

    def model(dataset: Dataset) -> tuple[Dataset, ModelConfig, Callable[[Any], None]]:
        encoder = encoder_for(held, dataset, split=log.split, positions=log.history + pack - 1)
        more = {"value_task": value_task, "lifelong": lifelong, "interest": data.interest, "keys": keys.keys}
        config = ablations(encoder, pack=pack, pretrained="" if held is None else held.id, dense_path=True, **more)[
            form
        ]
        return dataset, config, lambda fresh: take_over(fresh, dataset.spec, held)

    run_training(engine, out, data, settings, model, compute)


def as_built(_: object) -> None:
    """Weights as the model's constructor made them."""
