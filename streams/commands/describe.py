"""`interestream describe`: the language model says what it knows of the catalogue's items, one call an item, once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from interest.errors import InputError, Unreadable
from streams.commands.options import LlmBackend, Store
from streams.resolve.llm import nouns
from streams.settings.load import store_url

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from interest.write.describe import Told


def describe(
    store: Store = None,
    llm: Annotated[
        str | None, typer.Option(help="The folder of a checkpoint, or the URL of an OpenAI-compatible server.")
    ] = None,
    llm_model: Annotated[str | None, typer.Option(help="The model's name on the server.")] = None,
    item: Annotated[list[str] | None, typer.Option(help="Only this item; repeat the option for more.")] = None,
    items_limit: Annotated[
        int | None, typer.Option(help="Only this many items, those with most behaviours.", min=1)
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also ask once more about items whose answer was refused, empty or cut off.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also describe anew what another model has described.")
    ] = False,
    noun: Annotated[str, typer.Option(help="What the prompt calls an item.")] = "title",
    batch: Annotated[int, typer.Option(help="Requests decoded together by an LLM in this process.", min=1)] = 32,
    system_role: Annotated[
        bool,
        typer.Option("--system-role/--no-system-role", help="Without: for a server's model that takes no system role."),
    ] = True,
    llm_backend: LlmBackend = None,
) -> None:
    """Describe the items of the catalogue that have no description yet, or that have changed since.

    A description is what the model knows of the item or makes of its catalogue entry: nobody checks it. It is kept
    apart from the catalogue and shown as the model's. With {description} in [items] template of the settings it is
    part of the items' texts, whose vectors `interestream fuse` and the agent make anew.

    Interrupt it at any point; the same command goes on from there.
    """
    from interest.store import counters
    from interest.store.descriptions import count_descriptions
    from interest.write.describe import Choice, Told, wanted_items
    from interest.write.describe import describe as run
    from streams.progress import progress
    from streams.resolve.llm import STATISTICS, open_llm
    from streams.store.engine import open_store

    def count(connection: Connection) -> None:
        counters.increment(connection, counters.ITEMS)

    if llm == STATISTICS:
        raise InputError("--llm statistics: counts know nothing of items; name a language model")
    engine = open_store(store_url(store), create=False)
    with open_llm(llm, model=llm_model, batch=batch, system_role=system_role, backend=llm_backend) as opened:
        assert opened.complete is not None
        choice = Choice(noun=nouns(noun)[0], items=tuple(item or ()), limit=items_limit, again=again, replace=replace)
        wanted = wanted_items(engine, opened.name, choice)
        told = Told()
        try:
            with progress("Describing items", len(wanted), unit="items") as advance:
                run(
                    engine,
                    opened.complete,
                    wanted,
                    model=opened.name,
                    noun=choice.noun,
                    advance=advance,
                    written=count,
                    told=told,
                )
        finally:
            _report(told)
    with engine.connect() as connection:
        for (model, outcome), many in count_descriptions(connection).items():
            print(f"{many:>10,} items by {model}: {outcome}")
    if told.unread:
        raise Unreadable(
            f"{told.unread:,} items are left as they were, because replies about them could not be read: "
            f"{told.trouble}; the same command asks for them again"
        )


def _report(told: Told) -> None:
    """Outcomes, calls and tokens of the run, on standard error."""
    spent = told.usage
    outcomes = ", ".join(f"{outcome} {many:,}" for outcome, many in sorted(told.outcomes.items())) or "nothing to ask"
    kept = f"; {told.kept:,} older texts stay" if told.kept else ""
    lines = (
        f"asked about {told.outcomes.total():,} items in {told.seconds:,.1f} s: {outcomes}{kept}",
        f"  {spent.calls:,} calls ({spent.cached:,} more from the cache), {spent.prompt_tokens:,} prompt and "
        f"{spent.completion_tokens:,} completion tokens",
    )
    print("\n".join(lines), file=sys.stderr, flush=True)
