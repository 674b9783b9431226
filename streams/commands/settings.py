"""`interestream settings`: what is set, to what, and by whom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streams.commands.options import Json


def settings(
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file of settings; the environment overrides it. Default: INTERESTREAM_CONFIG."),
    ] = None,
    json: Json = False,
) -> None:
    """Print every setting, its value, and where it came from: the default, the file, or the environment.

    Each can be set by the variable shown, or in the file: kafka.partitions is `partitions` in the table [kafka].
    Secrets print as ***.
    """
    import msgspec

    from streams.settings.load import DEFAULT, shown_settings

    found = shown_settings(config)
    if json:
        print(msgspec.json.encode({"settings": found}).decode())
        return
    width = max(len(one.variable) for one in found)
    for one in found:
        value = "none" if one.value is None else str(one.value)
        origin = DEFAULT if one.origin == DEFAULT else "environment" if one.origin == one.variable else one.origin
        print(f"{one.variable:<{width}}  {value:<32}  {origin}".rstrip())
