"""`interestream replay`: a historical log through the whole pipeline, without any server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interest.errors import InputError
from streams.commands.options import LlmBackend, PromptVersion, Store
from streams.settings.durations import parse_duration
from streams.settings.load import store_url
from streams.ubsp.policy import Dedupe, Policy, Scenes, Span

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from interest.types import Behavior
    from streams.files.sources import Sources
    from streams.replay.embedded import Replayed


# what the workers' settings decide when the log goes to them through Kafka, and where
_OF_THE_AGENT = {
    "partition": "INTERESTREAM_INGEST_COUNT",
    "gap": "INTERESTREAM_INGEST_GAP",
    "span": "INTERESTREAM_INGEST_SPAN",
    "tokens": "INTERESTREAM_INGEST_TOKENS",
    "dedupe": "INTERESTREAM_INGEST_DEDUPE",
    "scenes": "INTERESTREAM_INGEST_SCENES",
    "llm": "INTERESTREAM_LLM_URL",
    "llm_model": "INTERESTREAM_LLM_MODEL",
    "llm_backend": "INTERESTREAM_LLM_URL",
    "prompt_version": "INTERESTREAM_LLM_PROMPT_VERSION",
    "noun": "INTERESTREAM_LLM_NOUN",
    "store": "INTERESTREAM_STORE",
    "no_llm": "the agent's --stages",
    "users_limit": None,
}


def replay(
    context: typer.Context,
    log: Annotated[
        Path,
        typer.Argument(help="The behaviours: CSV, TSV, JSON, Parquet or RecBole .inter; .gz too; or a folder."),
    ],
    items: Annotated[Path | None, typer.Option(help="The catalogue: item ids, titles, categories.")] = None,
    users: Annotated[Path | None, typer.Option(help="User profiles; every column becomes an attribute.")] = None,
    map_: Annotated[
        str | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN,…",
            help="Columns by hand, e.g. user_id=userId,items.item_id=sku; log., items. and users. name the file. "
            "label=COLUMN: rows are offers, and 1 is one that was taken.",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="The columns of a LOG without a header line: user_id,item_id,action,at."),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of text that is not UTF-8 or UTF-16: latin-1; or items=latin-1,log=cp1252."),
    ] = None,
    value_range: Annotated[
        str | None, typer.Option("--value-range", metavar="LEAST..MOST", help="Set aside values outside: 1..5 or 0..")
    ] = None,
    entity_separator: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Between the names in a cell of a log as AntM2C's. Default: | ; or a comma.",
        ),
    ] = None,
    entities: Annotated[
        bool,
        typer.Option(
            "--entities/--no-entities",
            help="Of a log as AntM2C's: what its columns know of the user's bills, visits and searches is history.",
        ),
    ] = True,
    rejected: Annotated[
        Path | None,
        typer.Option("--rejected", metavar="FILE", help="Where bad rows go; default: beside each file."),
    ] = None,
    store: Store = None,
    partition: Annotated[int, typer.Option(help="Behaviours that close a partition; 0: no limit.", min=0)] = 50,
    gap: Annotated[str | None, typer.Option(help="Also close after this much inactivity, e.g. 12h or 30d.")] = None,
    span: Annotated[Span | None, typer.Option(help="Also close when a calendar span (UTC) ends.")] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Also close before a prompt would have more tokens.", min=1)
    ] = None,
    dedupe: Annotated[
        Dedupe | None,
        typer.Option(
            help="What makes two behaviours of a user one, looked for in the open cache and the newest partition: auto "
            "(the event_id, else the whole row), event_id, row or none; time is the rule of older stores. Default: the "
            "store's own, auto in a new one.",
        ),
    ] = None,
    scenes: Annotated[
        Scenes, typer.Option(help="apart: partitions, and the texts about them, of each scene by itself.")
    ] = Scenes.JOINED,
    action: Annotated[
        str | None,
        typer.Option(
            help="The action of every row, if no column holds it; with --map label=COLUMN, of what was taken."
        ),
    ] = None,
    users_limit: Annotated[
        int | None,
        typer.Option(
            help="Learn interests only of this many users, those with the longest histories; all users are read.", min=1
        ),
    ] = None,
    llm: Annotated[
        str | None,
        typer.Option(
            help="What writes the interests once the log is read: the folder of a checkpoint, the URL of an "
            "OpenAI-compatible server, or `statistics` for none. Default: the fetched SmolLM2."
        ),
    ] = None,
    no_llm: Annotated[bool, typer.Option("--no-llm", help="Close partitions only: learn no interests.")] = False,
    llm_model: Annotated[str | None, typer.Option(help="The model's name, where --llm is a server.")] = None,
    llm_backend: LlmBackend = None,
    prompt_version: PromptVersion = None,
    noun: Annotated[str, typer.Option(help="What the texts call an item and items: singular,plural.")] = "title,titles",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Go on where an interrupted replay of this log stopped, or refuse to."
        ),
    ] = True,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="Send LOG to the topic of behaviours, for a running agent.")
    ] = False,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="RATE", help="With --kafka: max (default), 10x (ten seconds of the log each second), or 5000/s."
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=1, help="With --kafka: give up when Kafka has not answered for so long. Default: 60."
        ),
    ] = None,
) -> None:
    """Replay LOG: close partitions, learn interests, turn them into representations.

    It begins with what was understood of each file. Rows that cannot be used are written to FILE.rejected.jsonl with
    the reason. Interrupt it at any point and run the same command again: the store ends up as if nothing had happened.
    With --kafka the rows go to Kafka, where running agents (`interestream agent`) read them; the agents' settings then
    decide on partitions, duplicates, the LLM and the store.
    """
    from streams.files.mapping import parse_map
    from streams.files.numbers import ValueRange, parse_range
    from streams.files.rows import LogOptions
    from streams.files.sources import SourceOptions, open_sources, parse_encodings
    from streams.store.engine import open_store

    options = SourceOptions(
        column_map=parse_map(map_),
        log=LogOptions(
            action=action,
            columns=tuple(name.strip() for name in (columns or "").split(",") if name.strip()),
            allowed=parse_range(value_range) if value_range else ValueRange(),
            entities=entities,
            entity_separator=entity_separator,
        ),
        encodings=parse_encodings(encoding),
        rejected=rejected,
        strict=strict,
    )
    if kafka:
        from streams.commands.produce import produce
        from streams.replay.outage import TIMEOUT_S

        _refuse_options_of_the_agent(context)
        sources = open_sources(log, items, users, options)
        produce(sources, rate=rate or "max", resume=resume, timeout_s=timeout or TIMEOUT_S)
        return
    if not no_llm:
        _check_llm(llm, llm_model, prompt_version)
    if rate is not None:
        raise InputError("--rate is for --kafka; without Kafka a log is replayed as fast as it goes")
    if timeout is not None:
        raise InputError("--timeout is for --kafka; without Kafka nothing is waited for")
    try:
        policy = Policy(
            count=partition or None, gap_s=parse_duration(gap) if gap else None, span=span, tokens=tokens,
            dedupe=dedupe, scenes=scenes,
        )  # fmt: skip
    except ValueError as error:
        raise InputError(f"{error}; set --partition, --gap, --span or --tokens") from None
    if not no_llm:
        _check_fusing()
    sources = open_sources(log, items, users, options)
    engine = open_store(store_url(store))
    print("\n".join(sources.understood()), flush=True)
    _load_catalogue(engine, sources)
    _ingest(engine, sources, policy, resume=resume)
    if not no_llm:
        from streams.commands.fuse import fuse
        from streams.commands.learn import learn

        learn(
            store=store, users_limit=users_limit, llm=llm, llm_model=llm_model, llm_backend=llm_backend,
            prompt_version=prompt_version, noun=noun,
        )  # fmt: skip
        fuse(store=store)


def _check_llm(llm: str | None, model: str | None, prompt_version: str | None) -> None:
    """What `learn` would refuse once the log is read is refused before."""
    from interest.write.backlog import check_version
    from streams.resolve.llm import check_llm

    try:
        check_llm(llm, model)
    except InputError as error:
        raise InputError(f"{error}; --no-llm closes partitions alone") from None
    if prompt_version:
        check_version(prompt_version)


def _check_fusing() -> None:
    """What `fuse` would refuse once the texts are written is refused before."""
    from fusion.encoders.sentence import encoder_id
    from streams.resolve.bank import open_bank_lazily
    from streams.resolve.encoder import encoder_folder, item_template
    from streams.settings.load import load_settings

    folder = encoder_folder(None)
    if not folder.is_dir():
        raise InputError(
            f"there is no text encoder at {folder}, which makes vectors of the texts; run `interestream fetch "
            "encoder`, or close partitions alone with --no-llm"
        )
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise InputError(
                f"{package} is not installed, by which texts become vectors: pip install 'interestream[models]', or "
                "close partitions alone with --no-llm"
            )
    encoder_id(folder)
    item_template()
    open_bank_lazily(load_settings().bank)


def _refuse_options_of_the_agent(context: typer.Context) -> None:
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "")
        if option.name in _OF_THE_AGENT and given is not None and given.name == "COMMANDLINE":
            setting = _OF_THE_AGENT[option.name]
            held = f"the agent's settings hold it ({setting})" if setting else "the agent follows every user"
            raise InputError(f"{option.opts[0]} makes no sense with --kafka: {held}; leave it out")


def _load_catalogue(engine: Engine, sources: Sources) -> None:
    from interest.store import counters
    from interest.store.sql import writing
    from streams.files.catalogue import load_items, load_users

    if sources.items:
        with sources.rejects(sources.items.path) as rejects:
            count = load_items(engine, sources.items, rejects)
        with writing(engine) as connection:
            counters.increment(connection, counters.ITEMS)
        print(f"{count:,} items from {sources.items.path.name}{rejects.told()}")
    else:
        _load_offered(engine, sources)
    if sources.users:
        with sources.rejects(sources.users.path) as rejects:
            count = load_users(engine, sources.users, rejects)
        print(f"{count:,} user profiles from {sources.users.path.name}{rejects.told()}")


def _load_offered(engine: Engine, sources: Sources) -> None:
    """The catalogue that a log of offers brings: what the store does not have of it yet."""
    from interest.store import counters
    from interest.store.sql import insert_new, item_row, writing
    from interest.store.tables import items
    from streams.files.entities import offered_catalogue

    for what, read in offered_catalogue(sources.log):
        count = 0
        for chunk in read():
            with writing(engine) as connection:
                insert_new(connection, items, [item_row(item) for item in chunk])
                counters.increment(connection, counters.ITEMS)
            count += len(chunk)
        print(f"{count:,} {what} from {sources.log.path.name}")


def _ingest(engine: Engine, sources: Sources, policy: Policy, *, resume: bool) -> None:
    from sqlalchemy import func, select

    from interest.store.tables import offers
    from streams.replay.embedded import replay as run
    from streams.store.coverage import coverage_line, read_coverage

    log = sources.log
    with ExitStack() as stack:

        def started(rows: int, done: int, was_sorted: bool) -> Callable[[int], None]:
            if done and not resume:
                raise InputError(
                    f"{log.path.name} was replayed into this store up to row {done:,}; "
                    "leave --no-resume out to go on from there, or name another --store"
                )
            order = "in order of time" if was_sorted else "not in order of time: sorted first"
            print(f"{log.path.name}: {rows:,} rows, {order}" + (f"; {done:,} done earlier" if done else ""))
            # what was known of users is more rows than the file has
            return stack.enter_context(_progress(None if log.entities else rows, done))

        replayed = run(engine, log, policy, rejects=sources.rejects(log.path), started=started)
    print("\n".join(report(replayed)))
    alike = log.whole_minutes and "event_id" not in log.fields and replayed.policy.dedupe is not Dedupe.NONE
    if alike and replayed.dropped.events:
        print(whole_minutes(replayed.dropped.events), file=sys.stderr)
    with engine.connect() as connection:
        if log.label:
            held = connection.scalar(select(func.count()).select_from(offers))
            print(f"{held:,} offers that nobody took are in the store: samples to train on, no history")
        print(coverage_line(read_coverage(connection)))


@contextmanager
def _progress(rows: int | None, done: int) -> Iterator[Callable[[int], None]]:
    from streams.progress import progress

    with progress("Replaying", rows, unit="rows", done=done) as advance:
        yield advance


def report(replayed: Replayed) -> Iterator[str]:
    """What became of the log's rows."""
    position = replayed.position
    late = f", {position.late:,} of them late" if position.late else ""
    if replayed.resumed_at == position.offset and position.offset:
        yield "nothing new: this log was replayed before, and other options do not change what it left"
    yield (
        f"of this log {position.accepted:,} behaviours{late}; "
        f"{position.duplicates:,} duplicates; {position.rejected:,} rejected"
    )
    dropped = replayed.dropped
    if dropped.names:
        yield f"{dropped.names:,} of these duplicates are names of bills, visits and searches that were known already"
    if dropped.example is not None:
        rule = f"--dedupe {replayed.policy.dedupe}"
        yield f"dropped as a duplicate, for example: {described(dropped.example)} ({rule})"
    yield f"{replayed.partitions:,} closed partitions in the store"
    if replayed.rejects.count:
        yield f"rejected rows, each with line and reason: {replayed.rejects.path}"


def described(behavior: Behavior) -> str:
    """A behaviour in one line."""
    at = datetime.fromtimestamp(behavior.at, UTC)
    more = [
        f"{name} {value}"
        for name, value in (("value", behavior.value), ("scene", behavior.scene), ("event_id", behavior.event_id))
        if value is not None
    ]
    return ", ".join(
        [f"user {behavior.user_id}", f"item {behavior.item_id}", behavior.action, f"{at:%Y-%m-%d %H:%M:%S} UTC", *more]
    )


def whole_minutes(duplicates: int) -> str:
    """The warning for a log whose rows cannot be told apart within a minute."""
    return (
        "warning: this log has no event_id and its times are whole minutes, so that real repetitions within a minute "
        f"look like duplicates ({duplicates:,} were dropped); if they are real, replay it with --dedupe none into "
        "another --store"
    )
