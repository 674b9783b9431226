"""`interestream nearest`: a user's nearest items in the common space of an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streams.commands.options import Store
from streams.settings.load import store_url


def nearest(
    artifact: Annotated[Path, typer.Argument(help="The folder that `interestream train` wrote.")],
    user: Annotated[str | None, typer.Option(help="The user.")] = None,
    store: Store = None,
    top: Annotated[int, typer.Option(min=1, help="How many items.")] = 10,
    seen: Annotated[bool, typer.Option("--seen", help="Also items that the user has acted on already.")] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.parquet",
            help="Write the vector of every item of the catalogue instead (columns item_id and vector): those that the "
            "users' published vectors are multiplied with.",
        ),
    ] = None,
) -> None:
    """Show the items whose vectors have the greatest dot product with the user's, in the model's common space.

    It needs a model with match scalars (`train --match`). The space knows an item by who liked it and by its text; a
    user is where the whole past says that liking lies. Popularity is not in it: `score` ranks by what is likely liked.
    """
    from fusion.serving.common_space import CommonSpace
    from fusion.training.artifact import load_artifact
    from interest.errors import InputError
    from streams.store.engine import open_store

    if (user is None) == (export is None):
        raise InputError("give one of these: --user for a user's nearest items, --export for the vectors of all items")
    space = CommonSpace(load_artifact(artifact))
    with open_store(store_url(store), create=False).connect() as connection:
        if export is not None:
            from streams.files.item_vectors import write_item_vectors

            count = write_item_vectors(export, space.every_item(connection), space.width)
            print(f"{count:,} items' vectors, {space.width} wide, in {export}, of artifact {space.artifact}")
            return
        assert user is not None
        for one in space.nearest(connection, user, top, seen=seen):
            print(f"{one.product:+.3f}  {one.item_id}  {one.title or ''}".rstrip())
