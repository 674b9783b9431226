"""`interestream train bahe`: the upper layers of an LLM on the behaviour bank. Torch is imported only when it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from streams.commands.bank import Cut, Llm, Pooling, Precision
from streams.commands.option_groups import CommandWithOldNames, with_groups
from streams.commands.train import train
from streams.commands.training_options import (
    BatchSize,
    ComputeOptions,
    InterestOptions,
    OptimiserOptions,
    Out,
    Rate,
    SampleOptions,
    SuitedEpochs,
    TaskOptions,
)
from streams.commands.training_run import (
    dataset_config,
    given_tasks,
    match_spec,
    modalities,
    reads_interests,
    run_training,
    train_config,
)
from streams.progress import progress
from streams.settings.load import store_url

if TYPE_CHECKING:
    from fusion.features.dataset import Dataset
    from fusion.models.protocol import ModelConfig


@dataclass(frozen=True, kw_only=True)
class BaheOptimiser(OptimiserOptions):
    epochs: SuitedEpochs = 4
    batch_size: BatchSize = 128
    lr: Rate = 1e-3


@train.command("bahe", cls=CommandWithOldNames)
@with_groups
def bahe(
    out: Out,
    log: SampleOptions,
    tasks: TaskOptions,
    interests: InterestOptions,
    optimiser: BaheOptimiser,
    compute: ComputeOptions,
    llm: Llm = None,
    cut: Cut = None,
    pooling: Pooling = None,
    bank_precision: Precision = None,
    continue_from: Annotated[
        Path | None,
        typer.Option(
            help="An artifact to go on from, with its model and cut, on newer behaviours alone, and with its tasks or "
            "those of --task: the main one must stay, those that it has keep their towers, new ones get fresh ones."
        ),
    ] = None,
    sequences: Annotated[
        str,
        typer.Option(
            help="Sequences of --history behaviours that are read apart from each other, separated by commas: recent, "
            "liked, disliked, scene:NAME, action:NAME, and scenes or actions for one of each."
        ),
    ] = "recent",
    tune: Annotated[
        Literal["full", "lora"], typer.Option(help="Train the upper layers' weights, or low-rank differences (LoRA).")
    ] = "full",
    rank: Annotated[int, typer.Option(min=1, help="Rank of LoRA.")] = 8,
    llm_lr: Annotated[
        float, typer.Option(min=0.0, help="Peak learning rate of the LLM's layers; 0 freezes them.")
    ] = 1e-4,
    mask: Annotated[
        Literal["causal", "bidirectional"],
        typer.Option(help="Which other behaviours a behaviour attends to: earlier ones, or all."),
    ] = "causal",
    user_pooling: Annotated[
        Literal["mean", "last"], typer.Option(help="A sequence's vector: the mean of its states, or the newest state.")
    ] = "mean",
    precision: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="What the upper layers compute in; their weights are float32."),
    ] = "float32",
    pack: Annotated[
        int,
        typer.Option(
            min=1,
            help="Neighbouring samples of a user that share a pass in training, at most an eighth of --batch-size; "
            "1 with --mask bidirectional.",
        ),
    ] = 16,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Compute activations twice rather than keep them in memory.")
    ] = False,
) -> None:
    """Train BAHE: the upper layers of an LLM read one vector a behaviour, which the lower layers made once.

    Vectors that the bank lacks are computed first (`interestream bank fill` does the same ahead of time).

    With --continue-from the model is the artifact's; only --task, --balance, --epochs, --batch-size, the learning
    rates, --seed and where to compute still count. Run daily, each run trains on what is new since the one before, and
    on what that one kept for selection and test.
    """
    from fusion.encoders.split_llm import architecture
    from fusion.features.refresh import read_new
    from fusion.models.bahe.collate import named_sequences
    from fusion.models.bahe.model import BaheConfig
    from fusion.training.artifact import load_artifact
    from fusion.training.bahe import begin_with, begin_with_llm, check_continuable, continued, newest, with_bank_vectors
    from fusion.training.distributed import choose_device
    from fusion.training.out_folder import check_out
    from streams.resolve.bank import bank_files_folder, choose_recipe, llm_folder
    from streams.store.engine import open_store

    check_out(out, "bahe")
    engine = open_store(store_url(log.store), create=False)
    last = None if continue_from is None else load_artifact(continue_from, llm_folder(llm) if llm else None)
    rate = llm_lr / optimiser.lr if optimiser.lr else 0.0
    asked = given_tasks(log, tasks)
    many = None if last is None else len(asked or last.spec.tasks)
    settings = train_config(optimiser, tasks, last=last, many=many, pretrained_rate=rate)
    read = None
    if last is None:
        folder, recipe = choose_recipe(llm, cut, pooling, bank_precision)
        interest = reads_interests(engine, interests)
        match = match_spec(engine, interests, interest=interest)
        looks = modalities(engine, interests)
    else:
        old = check_continuable(last)
        folder, recipe, interest, match = Path(old.folder), old.recipe, old.interest, last.spec.match
        looks = last.spec.item_modalities
        spec, until, space = last.spec, old.until, last.space
        read = lambda connection, advance: read_new(  # noqa: E731
            connection, spec, until, advance, space=space, tasks=asked
        )
    data = dataset_config(log, interests, tasks, interest=interest, match=match, modalities=looks)

    def model(dataset: Dataset) -> tuple[Dataset, ModelConfig, Callable[[Any], None]]:
        shown = lambda title, total: progress(title, total, unit="texts")  # noqa: E731
        placed = str(choose_device(compute.device))
        dataset = with_bank_vectors(dataset, engine, recipe, folder, bank_files_folder(), shown, placed)
        if last is not None:
            ours = continued(last, dataset)
            return dataset, ours, lambda fresh: begin_with(fresh, ours, last)
        own = BaheConfig(
            recipe=recipe,
            folder=str(folder),
            architecture=architecture(folder),
            sequences=named_sequences(dataset.spec, [name.strip() for name in sequences.split(",") if name.strip()]),
            history=log.history,
            mask=mask,
            pooling=user_pooling,
            tune=tune,
            rank=rank,
            alpha=2.0 * rank,
            pack=pack,
            checkpointing=checkpointing,
            precision=precision,
            interest=interest,
            until=newest(dataset, log.split),
        )
        return dataset, own, lambda fresh: begin_with_llm(fresh, own)

    run_training(engine, out, data, settings, model, compute, read=read, llm=folder)
