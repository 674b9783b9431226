"""The command `interestream`. Commands import torch and transformers only when they run."""

from __future__ import annotations

import sys

import typer

from interest.errors import InterestreamError
from streams.commands.fetch import fetch
from streams.commands.fuse import fuse
from streams.commands.learn import learn
from streams.commands.replay import replay
from streams.commands.score import score
from streams.commands.train import train

app = typer.Typer(
    help="Follow user behaviour: partitions, interests written by an LLM, representations and CTR scores.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(fetch)
app.command()(fuse)
app.command()(learn)
app.command()(replay)
app.command()(score)
app.add_typer(train, name="train")


def main() -> None:
    try:
        app()
    except InterestreamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
