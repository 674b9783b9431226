"""`interestream pretrain`: an encoder of behaviours, learnt without labels. Torch is imported only when it runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from streams.commands.options import Store
from streams.commands.train import Device, History, Label, Out, Rate, SplitBy, Threads, Together, shown
from streams.settings.load import store_url

if TYPE_CHECKING:
    from fusion.training.pretrain import PretrainEpoch

pretrain = typer.Typer(help="Pre-train an encoder on the store's behaviours.", no_args_is_help=True)


@pretrain.callback()
def main() -> None:
    pass  # one sub-command would else become the command itself


@pretrain.command("fgbert")
def fgbert(
    out: Out,
    store: Store = None,
    label: Label = "value>=4",
    split: SplitBy = "global",
    history: History = 50,
    together: Together = 15,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="windows")] = 64,
    lr: Rate = 2e-3,
    width: Annotated[int, typer.Option(min=1)] = 64,
    layers: Annotated[int, typer.Option(min=1)] = 2,
    heads: Annotated[int, typer.Option(min=1)] = 2,
    item_masks: Annotated[float, typer.Option(min=0.01, max=0.99, help="share of items that are hidden")] = 0.2,
    behavior_masks: Annotated[float, typer.Option(min=0.01, max=0.99, help="share of behaviours hidden")] = 0.2,
    full_softmax: Annotated[int, typer.Option(min=0, help="above so many items the softmax is sampled")] = 50_000,
    seed: Annotated[int, typer.Option()] = 0,
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """Pre-train FG-BERT, for `interestream train srp4ctr --pretrained`.

    Only behaviours of the training part are learnt, by the same --split that the CTR model is to be trained with.
    Windows hold --history + --together - 1 behaviours.
    """
    import torch

    from fusion.features.dataset import DatasetConfig, read_labelled
    from fusion.features.labels import LabelRule
    from fusion.features.splits import TRAIN
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
    if history + together - 1 < LEAST:
        raise InputError(
            f"--history {history} with --together {together} leaves nothing to see beside what is hidden; give more"
        )
    check_out(out, PRETRAINING)
    if threads:
        torch.set_num_threads(threads)
    data = DatasetConfig(label=LabelRule.parse(label), split=split, history=history)
    encoder = FgBertConfig(positions=history + together - 1, width=width, layers=layers, heads=heads)
    config = PretrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        item_masks=item_masks,
        behavior_masks=behavior_masks,
        full_softmax=full_softmax,
        seed=seed,
    )
    place = choose_device(device)
    engine = open_store(store_url(store), create=False)
    with processes(place) as group:
        with shown("Reading the log", None, "behaviours") as advance, engine.connect() as connection:
            read = read_labelled(connection, data, advance, samples=False)
        began, events = time.monotonic(), int((read.part == TRAIN).sum())
        with shown("Pre-training", epochs * events, "behaviours") as advance:
            run(
                read,
                encoder,
                config,
                split=split,
                folder=out,
                advance=advance,
                report=_print_epoch if group.first else _say_nothing,
                device=place,
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
