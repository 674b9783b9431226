"""`interestream worth`: what the interest text is worth on one's own log. Torch is imported only when it runs."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from interest.errors import InputError
from streams.commands.option_groups import with_groups
from streams.commands.training_options import (
    BatchSize,
    Encoder,
    Generation,
    InterestOptions,
    Match,
    PromptVersion,
    Rate,
    SampleOptions,
    Threads,
)
from streams.commands.training_run import match_spec
from streams.progress import progress
from streams.resolve.llm import nouns
from streams.settings.load import store_url

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from fusion.features.dataset import Dataset, DatasetConfig, Replace
    from fusion.features.interest_vectors import InterestVectors
    from fusion.features.log import Array, Log
    from fusion.features.match.features import MatchSpec
    from fusion.models.protocol import ModelConfig
    from fusion.training.pretrained import Pretrained
    from fusion.worth.compare import Model
    from fusion.worth.texts import Write
    from fusion.worth.variants import Part


class InPlace(enum.StrEnum):
    """What may stand in the interest text's place."""

    SHUFFLED = "shuffled"
    STATISTICS = "statistics"
    TEMPLATE = "template"
    RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Which interest texts, and what stands in their place."""

    match: Match = "auto"
    prompt_version: PromptVersion = None
    encoder: Encoder = None
    generation: Generation = 0
    control: Annotated[
        list[InPlace] | None,
        typer.Option(
            help="What stands in the interest text's place: shuffled (texts of other users), statistics (sentences), "
            "template (all facts), random (vectors); repeat the option. Default: all four."
        ),
    ] = None
    encoder_folder: Annotated[
        str | None,
        typer.Option(help="The text encoder's folder, for texts of controls. Default: INTERESTREAM_FUSION_ENCODER's."),
    ] = None
    noun: Annotated[str, typer.Option(help="What these call an item and items: singular,plural.")] = "title,titles"


@dataclass(frozen=True, kw_only=True)
class PriceOptions:
    """What the texts cost."""

    prompt_price: Annotated[float, typer.Option(min=0.0, help="Of a million prompt tokens.")] = 0.0
    completion_price: Annotated[float, typer.Option(min=0.0, help="Of a million completion tokens.")] = 0.0
    hour_price: Annotated[float, typer.Option(min=0.0, help="Of an hour of the machine that the LLM ran on.")] = 0.0


@with_groups
def worth(
    out: Annotated[Path, typer.Option(help="The folder of the runs: new, empty, or of the same comparison.")],
    log: SampleOptions,
    texts: TextOptions,
    prices: PriceOptions,
    model: Annotated[Literal["srp4ctr", "din"], typer.Option(help="The model that reads the texts.")] = "srp4ctr",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant; intervals are over users and seeds.")] = 3,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most. Default: as `train` has it.")] = None,
    batch_size: BatchSize = 1024,
    lr: Rate = 2e-3,
    pretrained: Annotated[
        Path | None, typer.Option(help="For srp4ctr: the folder that `interestream pretrain fgbert` wrote.")
    ] = None,
    threads: Threads = None,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw worth.png (matplotlib).")] = True,
) -> None:
    """Say what the interest text is worth on this log: with it, without, and with controls in its place.

    With match scalars (--match), what items' texts and places are worth too. Every model is trained with every seed.
    Interrupt it at any point: what is finished is kept, and the same command goes on from there. Writes table.json and
    worth.png into --out; the last line printed is the verdict.
    """
    import torch

    from fusion.training.out_folder import check_place
    from fusion.training.pretrained import load_pretrained
    from fusion.training.train import TrainConfig
    from fusion.worth.compare import Comparison, Plan, compare
    from fusion.worth.costs import Prices, read_costs
    from fusion.worth.report import plot as draw
    from fusion.worth.variants import CONTROLS, variants
    from streams.store.engine import open_store

    check_place(out)
    if plot:
        _check_plot()
    if pretrained is not None and model != "srp4ctr":
        raise InputError("--pretrained is for --model srp4ctr")
    if threads:
        torch.set_num_threads(threads)
    held = None if pretrained is None else load_pretrained(pretrained)
    engine = open_store(store_url(log.store), create=False)
    match = _match(engine, texts)
    data = _data(log, texts, held, match)
    models = variants(_parts(match), [own for own in CONTROLS if texts.control is None or own in texts.control])
    more: dict[str, Any] = (
        {"embedding_decay": 0.2} if model == "srp4ctr" else {}
    )  # as their commands of `train` have it
    training = TrainConfig(epochs=epochs or 0, batch_size=batch_size, lr=lr, **more)
    with engine.connect() as connection:
        table, figures = compare(
            connection,
            Comparison(
                plan=Plan(
                    model=model,
                    data=f"{log.label}, split {log.split}, history {log.history}, at least {log.min_history} before; "
                    f"match {'none' if match is None else ', '.join(match.parts)}, controls name items {texts.noun}",
                    training=training,
                    pretrained="" if held is None else held.id,
                ),
                data=data,
                model=_srp4ctr(held, log) if model == "srp4ctr" else _din,
                models=models,
                seeds=seeds,
                replace=_controls(connection, texts),
                begin=lambda title, total: progress(title, total, unit="samples"),
            ),
            out,
            lambda own: read_costs(
                connection,
                generation=own.generation,
                prompt_version=own.prompt_version,
                prices=Prices(prompt=prices.prompt_price, completion=prices.completion_price, hour=prices.hour_price),
            ),
        )
    if plot:
        draw(models, figures, out / "worth.png")
    _print(table)


def _match(engine: Engine, texts: TextOptions) -> MatchSpec | None:
    options = InterestOptions(match=texts.match, encoder=texts.encoder, generation=texts.generation)
    return match_spec(engine, options, interest=True)


def _parts(match: MatchSpec | None) -> list[Part]:
    """What can be left out. Without match scalars the interest text alone, which is then read by UIF alone."""
    from fusion.worth.compare import OF_MATCH
    from fusion.worth.variants import INTEREST

    return [INTEREST] if match is None else [part for part, name in OF_MATCH.items() if name in match.parts]


def _data(log: SampleOptions, texts: TextOptions, held: Pretrained | None, match: MatchSpec | None) -> DatasetConfig:
    from fusion.features.dataset import DatasetConfig
    from fusion.features.tasks import Task

    return DatasetConfig(
        tasks=(Task.parse(log.label),),
        split=log.split,
        history=log.history,
        min_history=log.min_history,
        generation=texts.generation,
        prompt_version=texts.prompt_version,
        encoder=texts.encoder,
        match=match,
        value_edges=None if held is None else held.spec.value_edges,
    )


def _din(_dataset: Dataset, interest: bool) -> tuple[ModelConfig, Callable[[Any], None]]:
    from fusion.models.din import DinConfig

    return DinConfig(interest=interest, dense_path=True), lambda _fresh: None


def _srp4ctr(held: Pretrained | None, log: SampleOptions) -> Model:
    from fusion.models.srp4ctr.model import ablations
    from fusion.training.pretrained import encoder_for, take_over

    pack = 15  # this and the next two: the defaults of `train srp4ctr`

    def model(dataset: Dataset, interest: bool) -> tuple[ModelConfig, Callable[[Any], None]]:
        encoder = encoder_for(held, dataset, split=log.split, positions=log.history + pack - 1)
        more = {"value_task": 0.5, "lifelong": True, "interest": interest, "dense_path": True}
        config = ablations(encoder, pack=pack, pretrained="" if held is None else held.id, **more)["full"]
        return config, lambda fresh: take_over(fresh, dataset.spec, held)

    return model


def _controls(connection: Any, texts: TextOptions) -> dict[Any, Replace]:
    """Each control by name; the encoder is loaded when the first text is to be encoded."""
    from fusion.worth import controls
    from fusion.worth import texts as written
    from interest.write.prompts import Style

    style = Style(noun=nouns(texts.noun))

    def of_texts(write: Write) -> Replace:
        def replaced(held: InterestVectors, log: Log, _part: Array) -> InterestVectors:
            encoder = _encoder(texts.encoder_folder, held.encoder)
            with progress("Encoding the control's texts", None, unit="texts") as advance:
                vectors = written.vectors_of(connection, log.users, held, write, style, encoder, advance)
            return controls.of_texts(held, *vectors)

        return replaced

    return {
        "shuffled": controls.shuffled,
        "statistics": of_texts(written.statistics),
        "template": of_texts(written.template),
        "random": lambda held, _log, _part: controls.random(held),
    }


def _encoder(named: str | None, wanted: str) -> Any:
    """The text encoder that the interests' vectors are by. Raises InputError where the folder holds another one."""
    from fusion.encoders.sentence import open_encoder
    from streams.resolve.encoder import encoder_folder
    from streams.settings.load import load_settings

    encoder = open_encoder(encoder_folder(named or load_settings().fusion.encoder))
    if encoder.id != wanted:
        raise InputError(
            f"the interests' vectors are by the text encoder {wanted}, and the controls would be by {encoder.id}; "
            "name its folder with --encoder-folder, or choose controls without texts (--control shuffled)"
        )
    return encoder


def _check_plot() -> None:
    """Before hours of training rather than after."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise InputError(
            "matplotlib is not installed, so there would be no plot: pip install 'interestream[plot]', or --no-plot"
        )


def _print(table: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    names = [name for name in table["models"][0] if name not in ("model", "over_nothing", "under_all")]
    shown = Table(box=None, pad_edge=False)
    shown.add_column("model")
    for name in names:
        shown.add_column(name.replace("_", " "), justify="right")
    shown.add_column("all parts above it, AUC", justify="right")
    for row in table["models"]:
        gap = row.get("under_all", {}).get("auc")
        above = "" if gap is None else f"{gap['mean']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})"
        shown.add_row(row["model"], *("-" if row[name] is None else f"{row[name]:.4f}" for name in names), above)
    Console(width=160, file=sys.stdout).print(shown)
    for title, key in (("per 1,000 behaviours", "costs_per_1000_behaviors"), ("per +.001 AUC", "costs_per_001_auc")):
        if key in table:
            print(f"{title}: " + ", ".join(f"{value:,.2f} {name}" for name, value in table[key].items()))
    print(table["verdict"])
