"""`interestream train bahe`: the upper layers of an LLM on the behaviour bank. Torch is imported only when it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from streams.commands.bank import Cut, Llm, Pooling, Precision
from streams.commands.options import Store
from streams.commands.train import (
    Device,
    Encoder,
    Generation,
    Interest,
    Label,
    MinHistory,
    Out,
    PromptVersion,
    Rate,
    SplitBy,
    Threads,
    run_training,
    train,
)
from streams.progress import progress
from streams.settings.load import store_url

if TYPE_CHECKING:
    import torch

    from fusion.features.dataset import Dataset
    from fusion.models.registry import ModelConfig


@train.command("bahe")
def bahe(
    out: Out,
    llm: Llm = None,
    cut: Cut = None,
    store: Store = None,
    continue_from: Annotated[
        Path | None,
        typer.Option(help="an artifact to go on from, with its model, label and cut, on newer behaviours alone"),
    ] = None,
    interest: Interest = False,
    label: Label = "value>=4",
    split: SplitBy = "global",
    epochs: Annotated[int, typer.Option(min=1)] = 4,
    seed: Annotated[int, typer.Option()] = 0,
    history: Annotated[int, typer.Option(min=1, help="behaviours of each sequence, the newest")] = 50,
    min_history: MinHistory = 5,
    sequences: Annotated[
        str, typer.Option(help="read apart from each other: recent, liked, disliked, scenes, actions; with commas")
    ] = "recent",
    tune: Annotated[
        Literal["full", "lora"], typer.Option(help="the upper layers' weights, or low-rank differences")
    ] = "full",
    rank: Annotated[int, typer.Option(min=1, help="of LoRA")] = 8,
    mask: Annotated[Literal["causal", "bidirectional"], typer.Option(help="what a behaviour sees of the others")] = (
        "causal"
    ),
    user_pooling: Annotated[
        Literal["mean", "last"], typer.Option(help="a sequence's vector: mean of its states, or the newest's")
    ] = "mean",
    pooling: Pooling = None,
    bank_precision: Precision = None,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="what the upper layers compute in; weights are float32")
    ] = "float32",
    together: Annotated[
        int,
        typer.Option(
            min=1,
            help="neighbouring moments of a user that share a pass in training, at most an eighth of --batch-size; "
            "1 with --mask bidirectional",
        ),
    ] = 16,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="compute activations twice rather than keep them")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    lr: Rate = 1e-3,
    llm_lr: Annotated[
        float, typer.Option(min=0.0, help="peak learning rate of the LLM's layers; 0 freezes them")
    ] = 1e-4,
    threads: Threads = None,
    device: Device = "auto",
    prompt_version: PromptVersion = None,
    encoder: Encoder = None,
    generation: Generation = 0,
) -> None:
    """Train BAHE: the upper layers of an LLM read one vector a behaviour, which the lower layers made once.

    Vectors that the bank lacks are computed first (`interestream bank fill` does the same ahead of time).

    With --continue-from the model is the artifact's; only --epochs, --batch-size, the learning rates, --seed and where
    to compute still count. Run daily, each run trains on what is new since the one before, and on what that one kept
    for selection and test.
    """
    from fusion.encoders.split_llm import architecture
    from fusion.features.dataset import DatasetConfig
    from fusion.features.labels import LabelRule
    from fusion.features.refresh import read_new
    from fusion.models.bahe.collate import named_sequences
    from fusion.models.bahe.model import BaheConfig
    from fusion.training.artifact import load_artifact
    from fusion.training.bahe import begin_with, begin_with_llm, check_continuable, continued, give_vectors, newest
    from fusion.training.distributed import choose_device
    from fusion.training.out_folder import check_out
    from fusion.training.train import TrainConfig
    from streams.resolve.bank import bank_files_folder, choose_recipe, llm_folder
    from streams.store.engine import open_store

    check_out(out, "bahe")
    engine = open_store(store_url(store), create=False)
    settings = TrainConfig(
        epochs=epochs, seed=seed, batch_size=batch_size, lr=lr, pretrained_rate=llm_lr / lr if lr else 0.0
    )
    last = None if continue_from is None else load_artifact(continue_from, llm_folder(llm) if llm else None)
    read = None
    if last is None:
        folder, recipe = choose_recipe(llm, cut, pooling, bank_precision)
    else:
        old = check_continuable(last)
        folder, recipe, interest = Path(old.folder), old.recipe, old.interest
        spec, until = last.spec, old.until
        read = lambda connection, advance: read_new(connection, spec, until, advance)  # noqa: E731
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

    def model(dataset: Dataset) -> tuple[ModelConfig, Callable[[torch.nn.Module], None]]:
        shown = lambda title, total: progress(title, total, unit="texts")  # noqa: E731
        give_vectors(dataset, engine, recipe, folder, bank_files_folder(), shown, str(choose_device(device)))
        if last is not None:
            ours = continued(last, dataset)
            return ours, lambda fresh: begin_with(fresh, ours, last)
        own = BaheConfig(
            recipe=recipe,
            folder=str(folder),
            architecture=architecture(folder),
            sequences=named_sequences(dataset.spec, [name.strip() for name in sequences.split(",") if name.strip()]),
            history=history,
            mask=mask,
            pooling=user_pooling,
            tune=tune,
            rank=rank,
            alpha=2.0 * rank,
            pack=together,
            checkpointing=checkpointing,
            precision=precision,
            interest=interest,
            until=newest(dataset, split),
        )
        return own, lambda fresh: begin_with_llm(fresh, own)

    run_training(store, out, data, settings, model, threads, device, read=read, llm=folder)
