"""`interestream tune encoder`: the sentence encoder, tuned to what this store's users like together."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from streams.commands.adapting import device_and_store, say_forgotten
from streams.commands.option_groups import with_groups
from streams.commands.options import Store, event_time
from streams.commands.training_options import ComputeOptions, Out, SplitBy
from streams.progress import progress
from streams.settings.load import shown_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion.adaptation.tune import Tuned

QUICK_STEPS, QUICK_PAIRS = 20, 16

tune = typer.Typer(help="Tune what reads texts to the store's behaviours.", no_args_is_help=True)


@tune.callback()
def main() -> None:
    pass  # one sub-command would else become the command itself


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """How much is learnt, and how."""

    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimiser.")] = 400
    batch_size: Annotated[int, typer.Option(min=2, help="Pairs in a step.")] = 64
    lr: Annotated[float, typer.Option(min=0.0, help="Peak learning rate.")] = 2e-4
    layers: Annotated[int, typer.Option(min=1, help="So many of the encoder's upper layers are trained.")] = 2
    seed: Annotated[int, typer.Option(help="Seed of the pairs, and of which users are held out.")] = 0


@tune.command("encoder")
@with_groups
def encoder(
    out: Out,
    options: TuneOptions,
    compute: ComputeOptions,
    base: Annotated[
        str | None,
        typer.Option("--encoder", metavar="PATH|NAME", help="The base: a folder, or a fetched model. Default: MiniLM."),
    ] = None,
    store: Store = None,
    split: SplitBy = "global",
    before: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Learn from behaviours before this event time, instead of --split's training part."
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help=f"A try: {QUICK_STEPS} steps of {QUICK_PAIRS} pairs, whatever --steps and --batch-size say.",
        ),
    ] = False,
) -> None:
    """Tune a sentence encoder, so that items lie close by their texts where the same users like them.

    It learns from pairs of items that one user liked, of behaviours in the training part alone, by the same --split
    that models are to be trained with; how an item reads is [items] template's. A twentieth of the users is held out:
    where their pairs rank among 1,000 texts is measured before and after. Interrupt it at any point and run the same
    command again: it goes on to the same weights.

    The folder is used like the base one: `interestream fuse --encoder DIR`, [fusion] encoder in the settings. Its
    tuning.json says what it was made of; `interestream forget` names it where it learnt from the forgotten user.
    """
    import numpy as np

    from fusion.adaptation.co_liked import co_liked
    from fusion.adaptation.register import note_adaptation
    from fusion.adaptation.tune import tune as run
    from fusion.adaptation.tuner import TuneConfig
    from fusion.encoders.sentence import check_encoder
    from fusion.features.log import read_log
    from fusion.features.match.item_vectors import item_texts
    from fusion.features.splits import TRAIN
    from fusion.features.splits import split as parts
    from fusion.training.out_folder import check_place
    from interest.errors import InputError
    from interest.store.sql import read_items
    from streams.resolve.encoder import encoder_folder, item_template

    check_place(out)
    template = item_template()
    config = TuneConfig(
        steps=QUICK_STEPS if quick else options.steps,
        batch=QUICK_PAIRS if quick else options.batch_size,
        lr=options.lr,
        layers=options.layers,
        seed=options.seed,
        template=template,
        split=split,
        before=event_time("--before", before) if before else None,
    )
    folder = encoder_folder(base)
    check_encoder(folder)
    device, engine, url = device_and_store(compute, store)
    with progress("Reading the log", None, unit="behaviours") as advance, engine.connect() as connection:
        log = read_log(connection, advance=advance)
        texts = item_texts(connection, template, log.items, read_items(connection))
    training = parts(log, split) == TRAIN if config.before is None else log.at < config.before
    if not training.any():
        raise InputError("no behaviour is in the training part: replay a log first, or give a later --before")
    data, cut = co_liked(log, training, texts, config.seed), float(np.nextafter(log.at[training].max(), np.inf))
    began = time.monotonic()
    record = run(
        data,
        cut,
        folder,
        out,
        config,
        shown=_shown,
        say=print,
        note=lambda id_, base_id: note_adaptation(engine, id_, out, base_id, cut, data.users),
        store=shown_url(url),
        device=device,
    )
    _print_record(record)
    say_forgotten(engine, record.id, out, "tune it anew")
    print(f"tuned encoder in {out} ({time.monotonic() - began:.0f} s); `interestream fuse --encoder {out}` uses it")


def _shown(title: str, total: int, unit: str, done: int) -> AbstractContextManager[Callable[[int], None]]:
    return progress(title, total, unit=unit, done=done)


def _print_record(record: Tuned) -> None:
    print(f"learnt from {record.likes:,} likes of {record.users:,} users, {record.texts:,} texts")
    if record.before is None or record.after is None:
        print("no user who liked two items was held out: whether it has learnt anything was not measured")
    else:
        print(
            f"mean reciprocal rank of {record.held_pairs:,} held-out pairs among up to 1,000 texts: "
            f"{record.before:.4f} by {record.base}, {record.after:.4f} tuned"
        )
