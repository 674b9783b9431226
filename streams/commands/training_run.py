"""What the commands of `train` have in common: read the samples, train, print the metrics, represent the users."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from interest.errors import InputError
from interest.types import KNOWN_ACTIONS
from streams.commands.training_metrics import key_lines, print_epoch, print_metrics, task_lines
from streams.commands.training_options import (
    LABEL,
    ComputeOptions,
    InterestOptions,
    KeyOptions,
    OptimiserOptions,
    SampleOptions,
    TaskOptions,
)
from streams.progress import progress

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from fusion.features.dataset import Dataset, DatasetConfig
    from fusion.features.keys.spec import KeyChoice
    from fusion.features.match.features import MatchSpec, Part
    from fusion.features.modalities import Modality
    from fusion.features.tasks import Tasks
    from fusion.models.protocol import ModelConfig
    from fusion.training.artifact import Artifact
    from fusion.training.train import TrainConfig


def first_process() -> bool:
    """Whether this process is the one that prints, where torchrun started several."""
    return os.environ.get("RANK", "0") == "0"


def shown(title: str, total: int | None, unit: str) -> AbstractContextManager[Callable[[int], None]]:
    """A job's progress, by the first process where torchrun started several."""
    return progress(title, total, unit=unit) if first_process() else nullcontext(lambda _: None)


def reads_interests(engine: Engine, options: InterestOptions) -> bool:
    """Whether the model is to read interests; says so.

    `auto` reads them if the store has any of that generation. Raises InputError where `yes` finds none, and where
    several prompt versions or encoders fit and none is named.
    """
    from fusion.features.interest_vectors import choose_vectors, has_vectors

    if options.interest == "no":
        _say("interests: not read (--interest no)")
        return False
    with engine.connect() as connection:
        if options.interest == "auto" and not has_vectors(connection, options.generation):
            _say(
                "interests: not read, for the store has no vectors of them (`interestream learn`, `interestream fuse`)"
            )
            return False
        version, encoder = choose_vectors(
            connection,
            generation=options.generation,
            prompt_version=options.prompt_version,
            encoder=options.encoder,
        )
    _say(f"interests: read, by the prompts {version} and the text encoder {encoder}")
    return True


def match_spec(engine: Engine, options: InterestOptions, *, interest: bool) -> MatchSpec | None:
    """What the match scalars are to be made of; says so. Texts of items that have no vector yet are encoded first.

    Raises InputError where the store has vectors of several encoders and none is named.
    """
    from fusion.features.match.features import MatchSpec
    from streams.resolve.encoder import item_template

    if options.match == "no":
        if options.year:
            raise InputError("--year is read with the match scalars, which --match no leaves out; give one of them")
        _say("match: not read (--match no)")
        return None
    more: tuple[Part, ...] = (*(("interests",) if interest else ()), *(("year",) if options.year else ()))
    if options.year:
        _say(f"years: read, of {_share_with_year(engine):.0%} of the catalogue's items")
    encoder = _encoder_of_items(engine, options)
    if encoder is None:
        return MatchSpec(parts=("places", "support", *more))
    known: tuple[Part, ...] = ("known",) if _has_known(engine) else ()
    beside = f", and what is known of users ({', '.join(KNOWN_ACTIONS)})" if known else ""
    _say(f"match: read, with items' texts by {encoder}{beside}")
    return MatchSpec(parts=("text", "places", "support", *known, *more), encoder=encoder, template=item_template())


def _encoder_of_items(engine: Engine, options: InterestOptions) -> str | None:
    """Which encoder's vectors of items' texts are read; brings them up to date. Says so where there are none.

    By torchrun the first process encodes, the others wait for it.
    """
    from fusion.encoders.sentence import encoder_id
    from fusion.features.match.item_vectors import encoders_of_items
    from fusion.interests.item_vectors import texts_without_vectors
    from streams.resolve.encoder import EncoderWhenNeeded, item_template
    from streams.resolve.item_texts import await_catalogue, encode_catalogue
    from streams.settings.load import default_encoder

    with engine.connect() as connection:
        held = [name for name in encoders_of_items(connection) if options.encoder in (None, name)]
    if len(held) > 1:
        listed = ", ".join(f"--encoder {name}" for name in held)
        raise InputError(f"the store holds vectors of items by several encoders; choose one: {listed}")
    folder = default_encoder()
    here = encoder_id(folder) if folder.is_dir() else None
    wanted = held[0] if held else (options.encoder or here)
    if wanted is None:
        _say("match: read, without items' texts, for no text encoder is here (`interestream fetch encoder`)")
        return None
    lacking = 0
    if wanted != here:
        with engine.connect() as connection:
            lacking = len(texts_without_vectors(connection, wanted, item_template()))
    elif first_process():
        encode_catalogue(engine, EncoderWhenNeeded(folder, here), shown)
    else:
        await_catalogue(engine, here)
    with engine.connect() as connection:
        if wanted not in encoders_of_items(connection):
            why = f"the store has no vectors of them by {wanted}" if lacking else "the catalogue has none"
            _say(f"match: read, without items' texts, for {why}")
            return None
    if lacking:
        _say(
            f"match: items' texts without a vector by {wanted}: {lacking:,}; `interestream fuse --encoder` encodes them"
        )
    return wanted


def _has_known(engine: Engine) -> bool:
    """Whether the store has what a log of offers knew of its users."""
    from sqlalchemy import select

    from interest.store.tables import behaviors

    with engine.connect() as connection:
        found = select(behaviors.c.action).where(behaviors.c.action.in_(KNOWN_ACTIONS)).limit(1)
        return connection.scalar(found) is not None


def modalities(engine: Engine, options: InterestOptions) -> tuple[Modality, ...]:
    """The modalities of items that are to be read; brings those that are given into the store, and says so.

    Raises InputError for one that the store does not have, and for a file that cannot be used.
    """
    from fusion.features.match.item_vectors import encoders_of_items
    from fusion.features.modalities import TEXT, Modality, widths_in
    from streams.commands.item_vectors import bring_files
    from streams.resolve.encoder import item_template

    given = list(options.item_vectors or ())
    brought = bring_files(engine, given) if given and first_process() else [one.partition("=")[0] for one in given]
    found = []
    for name in dict.fromkeys([*(options.modality or ()), *brought]):
        with engine.connect() as connection:
            held, widths = encoders_of_items(connection), widths_in(connection)
        if name == TEXT:
            fitting = [one for one in held if options.encoder in (None, one)]
            if len(fitting) != 1:
                listed, by = ", ".join(f"--encoder {one}" for one in fitting), f" by {options.encoder}"
                told = f"vectors of items' texts by several encoders; choose one: {listed}"
                if not fitting:
                    told = f"no vectors of items' texts{by if options.encoder else ''}; `interestream fuse` makes them"
                raise InputError(f"--modality {TEXT}: the store has {told}")
            found.append(Modality(name=TEXT, encoder=fitting[0], template=item_template()))
        elif name in widths or name in brought:
            found.append(Modality(name=name))
        else:
            listed = ", ".join([*([TEXT] if held else []), *widths]) or "none"
            raise InputError(
                f"--modality {name}: the store has no such vectors of items; it has {listed}. Bring them with "
                f"--item-vectors {name}=FILE.parquet"
            )
    if found:
        _say(f"modalities of items: {', '.join(one.name for one in found)}")
    return tuple(found)


def _share_with_year(engine: Engine) -> float:
    """Of the catalogue's items, 0 to 1. Raises InputError where none has a year."""
    from fusion.features.match.years import share_with_year
    from interest.store.sql import read_items

    with engine.connect() as connection:
        share = share_with_year(read_items(connection))
    if not share:
        raise InputError(
            "--year: no item of the catalogue has a year, neither in a column with `year` in its name nor in a title "
            'such as "Heat (1995)"; leave it out, or bring years in with `replay --items FILE`'
        )
    return share


def key_choice(options: KeyOptions) -> KeyChoice | None:
    """Which keys the model is to read. Raises InputError for --key without --keys."""
    from fusion.features.keys.spec import KeyChoice

    if not options.keys:
        if options.key:
            raise InputError(f"--key {options.key[0]}: no keys are read; add --keys")
        return None
    return KeyChoice(None if options.key is None else tuple(options.key))


def given_tasks(log: SampleOptions, tasks: TaskOptions) -> Tasks:
    """Those of --task, or of a --label that is not the default. Raises InputError for both, and for what is not one."""
    from fusion.features.tasks import Task, parse_tasks

    if tasks.task and log.label != LABEL:
        raise InputError(
            f"--label {log.label} and --task: give one of the two; the first --task says what a positive is"
        )
    if tasks.task:
        return parse_tasks(tasks.task)
    return (Task.parse(log.label),) if log.label != LABEL else ()


def dataset_config(
    log: SampleOptions,
    interests: InterestOptions,
    tasks: TaskOptions,
    *,
    interest: bool,
    match: MatchSpec | None = None,
    modalities: tuple[Modality, ...] = (),
    keys: KeyChoice | None = None,
    value_edges: tuple[float, ...] | None = None,
) -> DatasetConfig:
    """The options as the record that the samples are read by. Raises InputError for a label or task that is not one."""
    from fusion.features.dataset import DatasetConfig
    from fusion.features.tasks import Task

    return DatasetConfig(
        tasks=given_tasks(log, tasks) or (Task.parse(LABEL),),
        split=log.split,
        history=log.history,
        min_history=log.min_history,
        interest=interest,
        generation=interests.generation,
        prompt_version=interests.prompt_version,
        encoder=interests.encoder,
        match=match,
        modalities=modalities,
        keys=keys,
        value_edges=value_edges,
    )


def chosen_data(
    engine: Engine,
    log: SampleOptions,
    tasks: TaskOptions,
    interests: InterestOptions,
    keys: KeyChoice | None,
    *,
    value_edges: tuple[float, ...] | None = None,
) -> DatasetConfig:
    """The same, where the store decides what is left to it; says what it does. Raises InputError for what the store
    does not have.
    """
    given_tasks(log, tasks)  # what is wrong with a rule is told first
    interest = reads_interests(engine, interests)
    match = match_spec(engine, interests, interest=interest)
    looks = modalities(engine, interests)
    return dataset_config(
        log,
        interests,
        tasks,
        interest=interest,
        match=match,
        modalities=looks,
        keys=keys,
        value_edges=value_edges,
    )


def train_config(
    options: OptimiserOptions, tasks: TaskOptions, *, last: Artifact | None = None, many: int | None = None, **more: Any
) -> TrainConfig:
    """The options as the record that the optimiser runs by; `more`: fields that not every model has options for.

    last: the artifact that the model goes on from; several tasks are balanced as they were unless --balance says
    otherwise. many: tasks, where that is not what --task says. Raises InputError for a --balance that is not known, has
    one task, or needs a package that is not installed.
    """
    import msgspec

    from fusion.features.tasks import parse_tasks
    from fusion.training.balance import balance_named
    from fusion.training.train import TrainConfig

    many = len(tasks.task or ()) if many is None else many
    weights = [task.weight for task in parse_tasks(tasks.task)] if tasks.task else []
    named: str = tasks.balance or "sum"
    if last is not None and tasks.balance is None and many > 1 and last.config.training.balance:
        named = last.config.training.balance
    balance = balance_named(named, weights)
    if balance != "sum" and many < 2:
        raise InputError(
            f"--balance {balance}: there is one task, whose gradient is taken as it is; add --task NAME=RULE"
        )
    return TrainConfig(
        epochs=options.epochs or 0, seed=options.seed, batch_size=options.batch_size, lr=options.lr,
        balance=msgspec.UNSET if balance == "sum" else balance, **more,
    )  # fmt: skip


def run_training(
    engine: Engine,
    out: Path,
    data: DatasetConfig,
    settings: TrainConfig,
    model: Callable[[Dataset], tuple[Dataset, ModelConfig, Callable[[Any], None]]],
    compute: ComputeOptions,
    read: Callable[[Connection, Callable[[int], None]], Dataset] | None = None,
    llm: Path | None = None,
) -> None:
    """Train into the folder `out`; print the metrics; with interests, write the users' representations.

    model: the samples as the model reads them, its config, and what is done to its fresh weights. read: how the samples
    are read, if not as `data` says. llm: where the model's LLM is.
    """
    import msgspec
    import torch

    from fusion.features.dataset import read_dataset
    from fusion.features.splits import TRAIN
    from fusion.models.registry import kind_of
    from fusion.serving.user_vectors import represent
    from fusion.training import experiment
    from fusion.training.artifact import load_artifact
    from fusion.training.distributed import choose_device, processes
    from fusion.training.train import suited_epochs

    if compute.threads:
        torch.set_num_threads(compute.threads)
    device = choose_device(compute.device)
    with processes(device) as dist:
        with shown("Reading the log", None, "behaviours") as advance, engine.connect() as connection:
            dataset = read_dataset(connection, data, advance) if read is None else read(connection, advance)
        dataset, config, prepare = model(dataset)
        for line in (*task_lines(dataset), *key_lines(dataset)):
            _say(line)
        rows = len(dataset.of(TRAIN))
        if not settings.epochs:
            settings = msgspec.structs.replace(settings, epochs=suited_epochs(kind_of(config).epochs, rows))
            _say(f"epochs: {settings.epochs}, for {rows:,} training samples (--epochs sets it)")
        began = time.monotonic()
        with shown("Training", settings.epochs * rows, "samples") as advance:
            metrics = experiment.run(
                dataset,
                config,
                settings,
                split=data.split,
                folder=out,
                advance=advance,
                report=(lambda epoch: print_epoch(epoch, dataset.spec.tasks)) if dist.first else _say_nothing,
                say=_print_note if dist.first else _say_nothing,
                prepare=prepare,
                device=device,
                dist=dist,
            )
        if not dist.first:
            return
    artifact = load_artifact(out, llm)
    print_metrics(metrics)
    print(f"artifact {artifact.id} in {out} ({time.monotonic() - began:.0f} s)")
    if data.interest:
        with progress("Representing users", None, unit="partitions") as advance:
            stored = represent(engine, artifact, advance)
        print(f"{stored:,} representations under {artifact.id}")


def _say(text: str) -> None:
    if first_process():
        print(text, flush=True)


def _say_nothing(_: object) -> None:
    pass


def _print_note(text: str) -> None:
    typer.echo(text, err=True)
