"""`interestream pretrain`: an encoder of behaviours, trained without labels. Torch is imported only when it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from streams.commands.option_groups import CommandWithOldNames, with_groups
from streams.commands.training_options import (
    ComputeOptions,
    Epochs,
    LogOptions,
    OptimiserOptions,
    Out,
    Pack,
)
from streams.commands.training_run import shown
from streams.settings.load import store_url

if TYPE_CHECKING:
    from fusion.training.pretrain import PretrainEpoch

pretrain = typer.Typer(help="Pre-train an encoder on the store's behaviours.", no_args_is_help=True)


@pretrain.callback()
def main() -> None:
    pass  # one sub-command would else become the command itself


@dataclass(frozen=True, kw_only=True)
class FgBertOptimiser(OptimiserOptions):
    epochs: Epochs = 20
    batch_size: Annotated[int, typer.Option(min=1, help="Windows of behaviours in a step.")] = 64


@pretrain.command("fgbert", cls=CommandWithOldNames)
@with_groups
def fgbert(
    out: Out,
    log: LogOptions,
    optimiser: FgBertOptimiser,
    compute: ComputeOptions,
    pack: Pack = 15,
    width: Annotated[int, typer.Option(min=1, help="Width of a behaviour's state.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the encoder.")] = 2,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads of a layer.")] = 2,
    item_masks: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of items that are masked.")] = 0.2,
    behavior_masks: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of behaviours that are masked whole.")
    ] = 0.2,
    full_softmax: Annotated[
        int, typer.Option(min=0, help="With more items than this, the softmax is sampled.")
    ] = 50_000,
) -> None:
    """Pre-train FG-BERT, for `interestream train srp4ctr --pretrained`.

    Only behaviours of the training part are learnt, by the same --split that the CTR model is to be trained with.
    Windows hold --history + --pack - 1 behaviours.
    """
    import torch

    from fusion.features.dataset import DatasetConfig, read_labelled
    from fusion.features.splits import TRAIN
    from fusion.features.tasks import Task
    from fusion.models.srp4ctr.fgbert import FgBertConfig
    from fusion.models.srp4ctr.masking import LEAST
    from fusion.training.artifact import PRETRAINING
    from fusion.training.distributed import choose_device, processes
    from fusion.training.out_folder import check_out
    from fusion.training.pretrain import PretrainConfig
    from fusion.training.pretrained import load_pretrained, run
    from interest.errors import InputError
    from streams.store.engine import open_store

    if width % heads:
        raise InputError(f"--width {width} cannot be shared by --heads {heads}; choose a multiple")
    if log.history + pack - 1 < LEAST:
        raise InputError(
            f"--history {log.history} with --pack {pack} leaves nothing to see beside what is masked; give more"
        )
    check_out(out, PRETRAINING)
    if compute.threads:
        torch.set_num_threads(compute.threads)
    data = DatasetConfig(tasks=(Task.parse(log.label),), split=log.split, history=log.history)
    encoder = FgBertConfig(positions=log.history + pack - 1, width=width, layers=layers, heads=heads)
    config = PretrainConfig(
        epochs=optimiser.epochs,
        batch_size=optimiser.batch_size,
        lr=optimiser.lr,
        item_masks=item_masks,
        behavior_masks=behavior_masks,
        full_softmax=full_softmax,
        seed=optimiser.seed,
    )
    device = choose_device(compute.device)
    engine = open_store(store_url(log.store), create=False)
    with processes(device) as group:
        with shown("Reading the log", None, "behaviours") as advance, engine.connect() as connection:
            read = read_labelled(connection, data, advance, least=LEAST)
        began, events = time.monotonic(), int((read.part == TRAIN).sum())
        with shown("Pre-training", optimiser.epochs * events, "behaviours") as advance:
            run(
                read,
                encoder,
                config,
                split=log.split,
                folder=out,
                advance=advance,
                report=_print_epoch if group.first else _say_nothing,
                device=device,
                dist=group,
            )
        if not group.first:
            return
    print(f"pre-trained encoder {load_pretrained(out).id} in {out} ({time.monotonic() - began:.0f} s)")


def _print_epoch(epoch: PretrainEpoch) -> None:
    loss, rate = ("-" if one is None else f"{one:.4f}" for one in (epoch.valid_loss, epoch.hit_rate))
    typer.echo(
        f"epoch {epoch.epoch + 1}: loss {epoch.loss:.4f}, validation loss {loss}, masked-item HR@10 {rate}", err=True
    )


def _say_nothing(_: PretrainEpoch) -> None:
    pass
