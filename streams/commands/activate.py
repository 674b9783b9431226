"""`interestream activate`: which trained artifact the running stream uses to represent users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.commands.options import Json, Store

if TYPE_CHECKING:
    from streams.resolve.activation import Activation


def activate(
    artifact: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The folder of an artifact that `interestream train` wrote.")
    ] = None,
    store: Store = None,
    pooled: Annotated[
        bool, typer.Option("--pooled", help="Go back to pooled vectors, which need no training.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Show what is in force; change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """From now on, let the running stream represent users by a trained artifact.

    The workers notice within INTERESTREAM_FUSION_POLL_S (10 s) and publish the newest representation of every user
    again on the topic `representations`, beside their other work. DIR must exist under the same path on every machine
    that runs a fusion stage; a worker that cannot load it says so in /ready and keeps the one it had.
    """
    from interest.errors import InputError
    from streams.resolve.activation import POOLED, activate_pooled, read_activations
    from streams.resolve.activation import activate as put_in_force
    from streams.settings.load import store_url
    from streams.store.engine import open_store

    if (artifact is not None) + pooled + show != 1:
        raise InputError("give exactly one of these: the folder of an artifact, --pooled, --show")
    engine = open_store(store_url(store), create=False)
    if show:
        _print(next(iter(read_activations(engine)), POOLED), as_json=as_json)
        return
    now, changed = put_in_force(engine, artifact) if artifact is not None else activate_pooled(engine)
    if not as_json:
        print("activated; the workers follow within seconds" if changed else "it was already in force")
    _print(now, as_json=as_json)


def _print(now: Activation, *, as_json: bool) -> None:
    if as_json:
        import msgspec

        print(msgspec.json.encode(now).decode())
    elif now.artifact:
        print(f"users are represented by artifact {now.artifact} in {now.folder} (activation {now.number})")
    else:
        print("users are represented by pooled vectors, nothing trained" + _number(now.number))


def _number(number: int) -> str:
    return f" (activation {number})" if number else ""
