"""`interestream forget`: every trace of one user out of the store."""

from __future__ import annotations

from typing import Annotated

import typer

from interest.errors import InputError
from streams.commands.options import Store
from streams.settings import store_url


def forget(
    user: Annotated[str | None, typer.Argument(help="The user's id.", show_default=False)] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    erase: Annotated[
        bool, typer.Option("--erase", help="Only rewrite the store's file, after a forget that could not.")
    ] = False,
    store: Store = None,
) -> None:
    """Delete every trace of USER: behaviours, partitions, interests, answers, vectors, representations, profile.

    One transaction over all tables; then the store's file is rewritten, so that no deleted text is left in it. Stop
    what writes to the store first: a running replay still has the user in memory. The counts of rows read stay, and
    with them the mark of how far each log was read: replaying the same log does not bring the user back, but rows not
    yet read, or the log under another name, would. Logs, their .rejected.jsonl files and trained artifacts are not in
    the store.
    """
    from streams.forget import erase as erase_store
    from streams.forget import forget as forget_user
    from streams.store import open_store
    from streams.users import check_user

    if (user is None) != erase:
        raise InputError("name one user to forget, or give --erase alone")
    engine = open_store(store_url(store), create=False)
    if user is None:
        erase_store(engine)
        print("the store's file is rewritten")
        return
    if not yes:
        with engine.connect() as connection:
            check_user(connection, user)
        if not typer.confirm(f"Delete everything about user {user} from {engine.url.render_as_string()}?"):
            raise typer.Exit(1)
    deleted = forget_user(engine, user)
    for table, rows in deleted.items():
        print(f"{table:<16}{rows:>10,} rows deleted")
