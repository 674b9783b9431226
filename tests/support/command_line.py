"""Runs `interestream` inside a test's own process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from streams.cli import app

SMALL_BAHE = ("--history", 6, "--epochs", 1, "--batch-size", 64)  # options of a short `train bahe`


def run(*arguments: object, **options: object) -> Result:
    """The outcome of `interestream ARGUMENTS`; what it raised is in `exception`."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)  # type: ignore[arg-type]


def output_of(*arguments: object, **options: object) -> str:
    """What `interestream ARGUMENTS` prints; it must succeed."""
    result = run(*arguments, **options)
    assert result.exit_code == 0, result.output or result.exception
    return result.output
