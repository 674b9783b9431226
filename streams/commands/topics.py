"""`interestream topics`: make the topics, look at them, and go on after a refusal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from streams.commands.options import Json, Store

if TYPE_CHECKING:
    from streams.admin.accept_topic import Acceptance
    from streams.kafka.provision import TopicRow

topics = typer.Typer(help="Kafka's topics: create them, show them, accept one that changed.", no_args_is_help=True)


@topics.command("create")
def create(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be created.")] = False,
) -> None:
    """Create the topics that are missing, as the settings say.

    Partitions, replication and retention are INTERESTREAM_KAFKA_PARTITIONS, _REPLICATION and _RETENTION_DAYS. Existing
    topics are left as they are; if one of them does not fit, nothing is created and everything that is wrong is named.
    """
    from streams.kafka.provision import create_topics
    from streams.settings.load import load_settings

    settings = load_settings().kafka
    created, there = create_topics(settings, dry_run=dry_run)
    for plan in created:
        says = "would be created" if dry_run else "created"
        shape = f"{plan.partitions} partitions, {','.join(plan.cleanup)}"
        print(f"{plan.name:<{_width([plan.name for plan in created])}}  {says}: {shape}")
    if there:
        print(f"{len(there)} topics are there and fit")


@topics.command("show")
def show(json: Json = False) -> None:
    """Show every topic: partitions, replication, messages, cleanup, retention, and anything wrong with it.

    Exits with 1 if a topic is not as it must be.
    """
    import msgspec

    from streams.kafka.provision import show_topics
    from streams.settings.load import load_settings

    rows = show_topics(load_settings().kafka)
    print(msgspec.json.encode({"topics": rows}).decode() if json else "\n".join(page(rows)))
    if any(row.wrong for row in rows):
        raise typer.Exit(1)


@topics.command("accept")
def accept(
    topic: Annotated[
        str | None, typer.Argument(help="Only this topic: behaviors, partitions...", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: Store = None,
) -> None:
    """Accept topics that the agent refused: messages lost to retention, a topic created again, more partitions.

    Shows for each partition where the stage stands, where it would go on and what is lost; after your yes it moves the
    positions. Stop the stage's workers first. Positions that are still valid are left alone.
    """
    from streams.admin.accept_topic import accept as accept_topic
    from streams.admin.accept_topic import check_stopped, plan_acceptance
    from streams.kafka.topics import Topics
    from streams.settings.load import load_settings, store_url
    from streams.store.engine import open_store

    settings = load_settings().kafka
    engine = open_store(store_url(store), create=False)
    names = [topic] if topic else Topics(settings.prefix).consumed
    plans = [plan for plan in (plan_acceptance(engine, settings, name) for name in names) if plan.needed]
    if not plans:
        print(f"{', '.join(names)}: can be continued; there is nothing to accept")
        return
    for plan in plans:
        check_stopped(settings, plan.stage)
        print("\n".join(said(plan)))
    if not yes and not typer.confirm("Go on like this?"):
        raise typer.Exit(1)
    for plan in plans:
        accept_topic(engine, settings, plan)
    print(f"accepted; start the workers of {', '.join(sorted({plan.stage for plan in plans}))} again")


def said(plan: Acceptance) -> Iterator[str]:
    """What accepting would do."""
    if plan.id != plan.id_before:
        yield f"{plan.topic} was deleted and made again: what it held unread is lost; {plan.stage} reads the new one"
    else:
        yield f"{plan.topic}, read by {plan.stage}:"
    if plan.changes:
        yield f"{'partition':>9} {'stands at':>14} {'goes on at':>14} {'lost':>12}"
    for one in plan.changes:
        before = "-" if one.before is None else f"{one.before:,}"
        after = "gone" if one.after is None else f"{one.after:,}"
        lost = "not known" if one.lost is None else f"{one.lost:,}"
        yield f"{one.partition:>9} {before:>14} {after:>14} {lost:>12}"


def page(rows: Sequence[TopicRow]) -> Iterator[str]:
    """The table to read, and below it what is wrong or differs."""
    width = _width([row.topic for row in rows])
    yield f"{'topic':<{width}}  partitions  replication    messages  {'cleanup':<14}  retention"
    for row in rows:
        if row.partitions is None:
            yield f"{row.topic:<{width}}  missing"
            continue
        kept = "for ever" if row.retention_days is None else f"{row.retention_days:g} days"
        counts = f"{row.partitions:>10}  {row.replication:>11}  {row.messages:>10,}"
        yield f"{row.topic:<{width}}  {counts}  {row.cleanup or '':<14}  {kept}"
    for row in rows:
        yield from (
            f"wrong: {fault if fault.startswith(row.topic) else f'{row.topic}: {fault}'}" for fault in row.wrong
        )
        yield from (f"note: {row.topic}: {said}" for said in row.differs)


def _width(names: Sequence[str]) -> int:
    return max(map(len, names), default=0)
