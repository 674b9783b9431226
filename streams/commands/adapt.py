"""`interestream adapt`: continual pre-training of a language model on the store's data (CPRM)."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interest.errors import InputError
from streams.commands.adapting import device_and_store, say_forgotten
from streams.commands.option_groups import with_groups
from streams.commands.options import Store, event_time
from streams.commands.training_options import ComputeOptions
from streams.progress import progress
from streams.settings.load import shown_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion.adaptation.record import Record
    from interest.types import Item

TOKENS, QUICK = 300_000, 5_000


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """How much of what is learnt, and how."""

    tokens: Annotated[
        int | None,
        typer.Option(
            min=1_000,
            help="How much is learnt, in tokens of all kinds together.",
            show_default=f"{TOKENS:,}; with --quick {QUICK:,}",
        ),
    ] = None
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, help="As many tokens as that takes here, measured first; --tokens at most."),
    ] = None
    mix: Annotated[
        str,
        typer.Option(
            metavar="KIND=SHARE,...",
            help="Shares of the tokens. item: fields hidden and asked for; related: items liked together; history: "
            "what users did; reading: questions and answers; facts: counts and sentences; general: the base model's.",
        ),
    ] = "item=0.25,related=0.2,history=0.15,reading=0.2,facts=0.1,general=0.1"
    lora: Annotated[int, typer.Option(min=0, metavar="RANK", help="Train LoRA of this rank; 0: all weights.")] = 0
    lr: Annotated[
        float | None, typer.Option(min=0.0, help="Peak learning rate.", show_default="2e-4, with --lora 1e-3")
    ] = None
    batch_size: Annotated[int, typer.Option(min=1, help="Contexts in a step.")] = 4
    context: Annotated[int, typer.Option(min=64, help="Tokens of a context, into which documents are packed.")] = 512
    join_users: Annotated[
        bool, typer.Option("--join-users", help="Let histories of several users share a context.")
    ] = False
    seed: Annotated[int, typer.Option(help="Seed of the documents, of what is held out, and of LoRA.")] = 0


@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
    """A larger model whose summaries of items are learnt too."""

    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="An OpenAI-compatible server whose summaries of items are learnt too, where they lead back to their "
            "item. INTERESTREAM_LLM_KEY is its key.",
        ),
    ] = None
    teacher_model: Annotated[str | None, typer.Option(metavar="NAME", help="The teacher's name on its server.")] = None
    teacher_items: Annotated[
        int, typer.Option(min=1, help="So many items, at most, is the teacher asked about: those met most often.")
    ] = 500


@with_groups
def adapt(
    out: Annotated[
        Path, typer.Option(help="The folder to write: new, empty, or of the same run; an interrupted one is continued.")
    ],
    learning: LearningOptions,
    teaching: TeacherOptions,
    compute: ComputeOptions,
    llm: Annotated[
        str | None,
        typer.Option(metavar="PATH|NAME", help="The base model: a folder, or a fetched model. Default: SmolLM2."),
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="The catalogue: item ids, titles, categories, any text. Default: the store's.")
    ] = None,
    map_: Annotated[
        str | None, typer.Option("--map", metavar="FIELD=COLUMN,...", help="Columns of --items by hand: item_id=sku.")
    ] = None,
    store: Store = None,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Learn from behaviours before this event time only. Default: the training part, 80 % of the log.",
        ),
    ] = None,
    noun: Annotated[str, typer.Option(help="What questions call an item and items: singular,plural.")] = "title,titles",
    quick: Annotated[
        bool, typer.Option("--quick", help=f"A try: {QUICK:,} tokens, few answers of the base model, few measures.")
    ] = False,
) -> None:
    """Adapt a causal language model of Llama's family to the store's items and behaviours (CPRM).

    Documents are made of the catalogue and of behaviours before --before: items with fields hidden in turn, items that
    the same users liked, histories, questions and answers, counts with sentences that the claim check accepts, and the
    base model's own answers against forgetting. A part of items and users is held out; perplexity on it is measured
    before and after, by kind.

    Interrupt it at any point and run the same command again: it goes on to the same weights. The folder is a checkpoint
    of transformers: use it with `interestream learn --llm DIR`, `bank fill --llm DIR`, or serve it with vLLM. Its
    adaptation.json says what it was made of; `interestream forget` names it where it learnt from the forgotten user.
    """
    from fusion.adaptation.learn import LearnConfig
    from fusion.adaptation.mixture import parse_mix
    from fusion.adaptation.register import note_adaptation
    from fusion.adaptation.run import AdaptConfig, Source, check_base
    from fusion.adaptation.run import adapt as run
    from fusion.features.log import read_log
    from fusion.training.out_folder import check_place
    from interest.llm.gather import has_none, no_model
    from interest.store.sql import read_items
    from streams.resolve.bank import llm_folder
    from streams.resolve.llm import nouns
    from streams.resolve.teacher import open_teacher

    check_place(out)
    config = AdaptConfig(
        tokens=learning.tokens or (QUICK if quick else TOKENS),
        minutes=learning.minutes,
        mix=parse_mix(learning.mix),
        context=learning.context,
        join_users=learning.join_users,
        before=event_time("--before", before) if before else None,
        noun=nouns(noun),
        learn=LearnConfig(batch=learning.batch_size, lr=learning.lr, rank=learning.lora, seed=learning.seed),
        **({"answers": 16, "held": 10} if quick else {}),
    )
    if out.is_file():
        raise InputError(f"--out {out} is a file; give a folder")
    base = llm_folder(llm)
    if has_none(base):
        raise no_model(base)
    check_base(base)
    device, engine, url = device_and_store(compute, store)
    given = _read_file(items, map_) if items else {}  # before the log: what is wrong with it is said at once
    with progress("Reading the log", None, unit="behaviours") as advance, engine.connect() as connection:
        log = read_log(connection, advance=advance)
        catalogue = read_items(connection) | given
    began = time.monotonic()
    with open_teacher(engine, teaching.teacher, teaching.teacher_model, teaching.teacher_items, config.noun) as teacher:
        record = run(
            Source(log, catalogue, shown_url(url)),
            base,
            out,
            config,
            shown=_shown,
            say=print,
            note=lambda id_, cut, users: note_adaptation(engine, id_, out, base.name, cut, users),
            device=device,
            teacher=teacher,
        )
    _print_record(record)
    say_forgotten(engine, record.id, out, "adapt it anew")
    print(f"adapted model {record.id} in {out} ({time.monotonic() - began:.0f} s)")


def _read_file(path: Path, columns: str | None) -> dict[str, Item]:
    """The items of a file, after the table of what was understood of it. The store's catalogue is left as it is."""
    from streams.files.catalogue import ItemFile
    from streams.files.mapping import parse_map
    from streams.files.readers import TableFile
    from streams.files.rejects import RejectWriter
    from streams.files.understood import table

    file, column_map = TableFile(path), parse_map(columns)
    column_map.check({"items": (path, file.columns)})
    read = ItemFile(file, column_map.of("items", file.columns))
    print("\n".join(table(read.understood())), flush=True)
    with RejectWriter(path) as rejects:
        found = {item.item_id: item for chunk in read.items(rejects) for item in chunk}
    print(f"{len(found):,} items from {path.name}{rejects.told()}")
    return found


def _shown(title: str, total: int | None, unit: str, done: int) -> AbstractContextManager[Callable[[int], None]]:
    return progress(title, total, unit=unit, done=done)


def _print_record(record: Record) -> None:
    print(f"learnt from {record.users:,} users and {record.items:,} items, {sum(record.tokens.values()):,} tokens")
    print("perplexity of held-out documents (of what they ask for), before and after:")
    for kind, before in record.before.items():
        print(f"  {kind:<10}{before:>12,.2f}{record.after[kind]:>12,.2f}")
