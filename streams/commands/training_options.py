"""The options of `train` and `pretrain`, in groups: what is learnt from, the interests, the optimiser, the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from streams.commands.options import Store

LABEL = "value>=4"
Out = Annotated[
    Path,
    typer.Option(
        help="The folder to write: new, empty, or of the same kind of run; an interrupted run in it is continued."
    ),
]
Label = Annotated[str, typer.Option(help="What counts as a positive, e.g. value>=4 or action=purchase.")]
TaskRules = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="NAME=RULE[@WEIGHT]",
        help="Learn several tasks at once, instead of --label: repeat the option. A yes or no, like='value>=4', "
        "watched='seconds>=30'@2 or bought='action=purchase|cart', or a number, value or log(seconds); behind `if` of "
        "which behaviours: 'value>=4 if action=rate'. A behaviour without a task's value teaches that task nothing, "
        "and 0 has no logarithm.",
    ),
]
BalanceBy = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How the gradients of several tasks share parameters: sum, gdod (what all tasks agree on, of gradients "
        "brought to one length; where that is nothing, the nearest to their sum that opposes none), gdod-pure (the "
        "paper's), gdod-lengths and gdod-pcgrad (of gradients as they are, with a way out), or a peer: pcgrad, cagrad, "
        "mgda, imtl-g, aligned-mtl, upgrad, dualproj. Default: sum; with --continue-from, as before.",
    ),
]
SplitBy = Annotated[
    Literal["global", "user"],
    typer.Option(help="How 80/10/10 % become training, validation and test: by time over all users, or in each user."),
]
History = Annotated[int, typer.Option(min=1, help="The user's newest behaviours that the model reads one by one.")]
MinHistory = Annotated[int, typer.Option(min=0, help="Earlier behaviours of the user that a sample needs.")]
Interest = Annotated[
    Literal["auto", "yes", "no"],
    typer.Option(help="Read the vectors of users' interests (UIF). auto: if the store has any; says what it does."),
]
PromptVersion = Annotated[
    str | None, typer.Option(help="Which version of the prompts the interests are by, where the store holds several.")
]
Match = Annotated[
    Literal["auto", "yes", "no"],
    typer.Option(
        help="Match scalars: what the user made of items like the candidate, in a space fitted to the training part. "
        "Items' texts that have no vector yet are encoded first. auto and yes: read them; no: leave them out."
    ),
]
Encoder = Annotated[
    str | None, typer.Option(help="Which text encoder the vectors are by, where the store holds several.")
]
ModalityNames = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Read these vectors of items, of what is offered and, by models that read one, of the history; repeat the "
        "option. text: those of items' texts (`interestream fuse`); another name: what --item-vectors has brought, now "
        "or before.",
    ),
]
ItemVectors = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FILE.parquet",
        help="Bring vectors of items into the store, such as image=images.parquet (columns item_id and vector, any "
        "width; items may be missing), and read them; repeat the option.",
    ),
]
Generation = Annotated[int, typer.Option(min=0, help="Which partitioning of the log the interests are of.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training part, at most: the best one is kept.")]
SuitedEpochs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Passes over the training part, at most: the best one is kept. Default: as many as suit its size, said.",
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples in a step.")]
Rate = Annotated[float, typer.Option(min=0.0, help="Peak learning rate.")]
Seed = Annotated[int, typer.Option(help="Seed of fresh weights, the order of samples and dropout.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads. Default: all.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")]
Pack = Annotated[
    int, typer.Option(min=1, help="Neighbouring samples of a user that share one encoded history in training.")
]

Keys = Annotated[
    bool,
    typer.Option(
        "--keys/--no-keys",
        help="Read the user's key-vector state beside the history: what was made of items, categories, directors ... "
        "over the whole past.",
    ),
]
KeyNames = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="ATTRIBUTE",
        help="An attribute of the catalogue that is a kind of key beside items, categories and scenes; repeat the "
        "option. Default: the four that most items have, of those that group items.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What is learnt from: the store's behaviours, their labels, and the parts they are split into."""

    store: Store = None
    label: Label = LABEL
    split: SplitBy = "global"
    history: History = 50


@dataclass(frozen=True, kw_only=True)
class SampleOptions(LogOptions):
    """The same, where every sample has a history before it."""

    min_history: MinHistory = 5


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What is learnt, where it is not --label alone."""

    task: TaskRules = None
    balance: BalanceBy = None


@dataclass(frozen=True, kw_only=True)
class InterestOptions:
    """Whether the model reads interests and item texts, and which."""

    match: Match = "auto"
    year: Annotated[
        bool,
        typer.Option(
            "--year/--no-year",
            help="Also read items' release years: how the user took items of near years, and the year itself.",
        ),
    ] = False
    interest: Interest = "auto"
    prompt_version: PromptVersion = None
    encoder: Encoder = None
    modality: ModalityNames = None
    item_vectors: ItemVectors = None
    generation: Generation = 0


@dataclass(frozen=True, kw_only=True)
class KeyOptions:
    """Whether the model reads users' key-vector states, and which kinds of keys."""

    keys: Keys = False
    key: KeyNames = None


@dataclass(frozen=True, kw_only=True)
class OptimiserOptions:
    """How long and how fast is learnt."""

    epochs: SuitedEpochs = None
    batch_size: BatchSize = 1024
    lr: Rate = 2e-3
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """What it is computed on."""

    threads: Threads = None
    device: Device = "auto"
