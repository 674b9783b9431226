"""`interestream rates`: the frozen base rates that the prompts plain-2, plain-3, json-2 and knowledge-1 read."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interest.errors import InputError
from streams.commands.options import Json, Store, check_file, write_file
from streams.progress import progress
from streams.settings.load import store_url

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from interest.facts.base_rates import BaseRates

SHOWN = 5  # categories of a line


def rates(
    store: Store = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="Freeze the rates of this store as it is now.")] = False,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Take over rates that were frozen elsewhere.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write the rates to a file, for another store.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="With --export: which. Default: those frozen last.")] = None,
    json: Json = False,
) -> None:
    """Show, freeze, import or export base rates: how common each category is among this installation's users.

    They are frozen once and named in the version of the prompts that read them (plain-2@1f0c52aa), so that a replay
    gives the texts that were written live. They hold counts: no user, no item, no title.
    """
    from interest.write.rates import read_rates, versions, write_rates
    from streams.store.engine import open_store

    check_file("--export", export)
    engine = open_store(store_url(store), create=False)
    if freeze:
        say_frozen(freeze_with_progress(engine))
    if import_ is not None:
        write_rates(engine, _read(import_))
    with engine.connect() as connection:
        found = {name: read_rates(connection, name) for name in versions(connection)}
        wanted = read_rates(connection, version)
    if export is not None:
        _export(wanted, version, export)
    rows: list[dict[str, Any]] = [
        {"version": name, "users": each.partitions, "rates": each.rates} for name, each in found.items() if each
    ]
    if json:
        print(jsonlib.dumps(rows))
        return
    for row in rows:
        common = sorted(row["rates"].items(), key=lambda pair: (-pair[1], pair[0]))[:SHOWN]
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in common)
        print(f"{row['version']}  of {row['users']:,} users: {shares}")
    if not rows:
        print("no base rates are frozen; --freeze does, or `interestream learn --prompt-version plain-2`")


def freeze_with_progress(engine: Engine) -> BaseRates:
    """Freeze the store's rates. Raises InputError where too few users have a closed partition."""
    from interest.write.rates import freeze_rates

    with progress("Freezing base rates", None, unit="users") as advance:
        return freeze_rates(engine, advance)


def say_frozen(frozen: BaseRates) -> None:
    line = f"froze the base rates {frozen.version}, of {frozen.partitions:,} users; they stay as they are"
    print(line, file=sys.stderr, flush=True)


def _read(file: Path) -> BaseRates:
    import msgspec

    from interest.facts.base_rates import decode

    try:
        return decode(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise InputError(f"{file} holds no base rates that this version reads: {error}") from error


def _export(wanted: BaseRates | None, version: str | None, file: Path) -> None:
    from interest.facts.base_rates import encode

    if wanted is None:
        raise InputError(f"this store has no base rates {version or 'yet'}; `interestream rates --freeze` makes some")
    write_file("--export", file, encode(wanted))
