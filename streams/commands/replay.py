"""`interestream replay`: a historical log through the whole pipeline, without any server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interest.errors import InputError
from streams.commands.options import Store
from streams.settings.durations import parse_duration
from streams.settings.load import store_url
from streams.ubsp.policy import Policy, Span

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from streams.files.rows import BehaviorLog
    from streams.replay.embedded import Replayed


# what the workers' settings decide when the log goes to them through Kafka, and where
_OF_THE_AGENT = {
    "partition": "INTERESTREAM_INGEST_COUNT",
    "gap": "INTERESTREAM_INGEST_GAP",
    "span": "INTERESTREAM_INGEST_SPAN",
    "tokens": "INTERESTREAM_INGEST_TOKENS",
    "llm_from": "INTERESTREAM_LLM_URL",
    "llm_model": "INTERESTREAM_LLM_MODEL",
    "noun": "INTERESTREAM_LLM_NOUN",
    "store": "INTERESTREAM_STORE",
    "llm": "the agent's --stages",
    "users_limit": None,
}


def replay(
    context: typer.Context,
    log: Annotated[Path, typer.Argument(help="The behaviours: CSV, TSV, JSONL, Parquet or RecBole .inter; .gz too.")],
    items: Annotated[Path | None, typer.Option(help="The catalogue: item ids, titles, categories.")] = None,
    users: Annotated[Path | None, typer.Option(help="User profiles; every column becomes an attribute.")] = None,
    map_: Annotated[
        str | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN,…",
            help="Which column holds what, where it is not found: user_id=userId,value=rating.",
        ),
    ] = None,
    store: Store = None,
    partition: Annotated[int, typer.Option(help="Behaviours that close a partition; 0: no limit.", min=0)] = 50,
    gap: Annotated[str | None, typer.Option(help="Also close after this much inactivity, e.g. 12h or 30d.")] = None,
    span: Annotated[Span | None, typer.Option(help="Also close when a calendar span (UTC) ends.")] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Also close before a prompt would have more tokens.", min=1)
    ] = None,
    action: Annotated[str | None, typer.Option(help="The action of every row, if no column holds it.")] = None,
    users_limit: Annotated[
        int | None,
        typer.Option(
            help="Learn interests only of this many users, those with the longest histories; all users are read.", min=1
        ),
    ] = None,
    llm: Annotated[bool, typer.Option("--llm/--no-llm", help="Learn interests once the log is read.")] = True,
    llm_from: Annotated[
        str | None, typer.Option("--llm-from", metavar="PATH|URL", help="The LLM. Default: the fetched SmolLM2.")
    ] = None,
    llm_model: Annotated[str | None, typer.Option(help="The model's name, where --llm-from is a server.")] = None,
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
) -> None:
    """Replay LOG: close partitions, learn interests, turn them into representations.

    Rows that cannot be used are written to LOG.rejected.jsonl with the reason. Interrupt it at any point and run the
    same command again: the store ends up as if nothing had happened. With --kafka the rows go to Kafka, where running
    agents (`interestream agent`) read them; the agents' settings then decide on partitions, the LLM and the store.
    """
    from streams.files.mapping import parse_map
    from streams.files.rows import BehaviorLog
    from streams.store.engine import open_store

    column_map = parse_map(map_)
    if kafka:
        from streams.commands.produce import produce

        _refuse_options_of_the_agent(context)
        produce(
            BehaviorLog(log, column_map, action),
            items,
            users,
            column_map,
            rate=rate or "max",
            strict=strict,
            resume=resume,
        )
        return
    if llm and llm_from and llm_from.startswith(("http://", "https://")) and not llm_model:
        raise InputError(f"name the model that {llm_from} serves with --llm-model")
    if rate is not None:
        raise InputError("--rate is for --kafka; without Kafka a log is replayed as fast as it goes")
    try:
        policy = Policy(count=partition or None, gap_s=parse_duration(gap) if gap else None, span=span, tokens=tokens)
    except ValueError as error:
        raise InputError(f"{error}; set --partition, --gap, --span or --tokens") from None
    behaviors = BehaviorLog(log, column_map, action)
    engine = open_store(store_url(store))
    _load_catalogue(engine, items, users, column_map)
    _ingest(engine, behaviors, policy, strict=strict, resume=resume)
    if llm:
        from streams.commands.fuse import fuse
        from streams.commands.learn import learn

        learn(store=store, users_limit=users_limit, llm=llm_from, llm_model=llm_model, noun=noun)
        fuse(store=store)


def _refuse_options_of_the_agent(context: typer.Context) -> None:
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "")
        if option.name in _OF_THE_AGENT and given is not None and given.name == "COMMANDLINE":
            setting = _OF_THE_AGENT[option.name]
            held = f"the agent's settings hold it ({setting})" if setting else "the agent follows every user"
            raise InputError(f"{option.opts[0]} makes no sense with --kafka: {held}; leave it out")


def _load_catalogue(engine: Engine, items: Path | None, users: Path | None, column_map: dict[str, str]) -> None:
    from streams.files.catalogue import load_items, load_users

    if items:
        print(f"{load_items(engine, items, column_map):,} items from {items.name}")
    if users:
        print(f"{load_users(engine, users, column_map):,} user profiles from {users.name}")


def _ingest(engine: Engine, log: BehaviorLog, policy: Policy, *, strict: bool, resume: bool) -> None:
    from streams.replay.embedded import replay as run

    with ExitStack() as stack:

        def started(rows: int, done: int, was_sorted: bool) -> Callable[[int], None]:
            if done and not resume:
                raise InputError(
                    f"{log.path.name} was replayed into this store up to row {done:,}; "
                    "leave --no-resume out to go on from there, or name another --store"
                )
            order = "in order of time" if was_sorted else "not in order of time: sorted first"
            print(f"{log.path.name}: {rows:,} rows, {order}" + (f"; {done:,} done earlier" if done else ""))
            return stack.enter_context(_progress(rows, done))

        report(run(engine, log, policy, strict=strict, started=started))


@contextmanager
def _progress(rows: int, done: int) -> Iterator[Callable[[int], None]]:
    from streams.progress import progress

    with progress("Replaying", rows, unit="rows", done=done) as advance:
        yield advance


def report(replayed: Replayed) -> None:
    position = replayed.position
    late = f", {position.late:,} of them late" if position.late else ""
    if replayed.resumed_at == position.offset and position.offset:
        print("nothing new: this log was replayed before, and other options do not change what it left")
    print(
        f"of this log {position.accepted:,} behaviours{late}; "
        f"{position.duplicates:,} duplicates; {position.rejected:,} rejected"
    )
    print(f"{replayed.partitions:,} closed partitions in the store")
    if replayed.rejected_file:
        print(f"rejected rows, each with line and reason: {replayed.rejected_file}")
