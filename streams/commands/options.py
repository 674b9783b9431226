"""Options that several commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="The store, e.g. sqlite:///interestream.db. Default: INTERESTREAM_STORE, else interestream.db here.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text to read.")]
