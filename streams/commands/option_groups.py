"""Options that several commands share as one record, and options that were renamed.

A command that takes a dataclass as a parameter is registered with the dataclass's fields as its options; a field's
default is the option's, so that a subclass with another default gives a command its own.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand

RENAMED = {"--together": "--pack", "--llm-from": "--llm"}  # since 0.2; the old name goes with the release after


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer sees it: every parameter that is a dataclass becomes that dataclass's fields."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)}

    def options() -> Iterator[inspect.Parameter]:
        for name, parameter in inspect.signature(command).parameters.items():
            if name in groups:
                yield from _fields(groups[name])
            else:
                yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])

    signature = inspect.Signature(list(options()))

    @functools.wraps(command)
    def called(**given: Any) -> None:
        records = {
            name: group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        command(**records, **given)

    called.__signature__ = signature  # type: ignore[attr-defined]
    called.__annotations__ = {name: option.annotation for name, option in signature.parameters.items()}
    return called


def _fields(group: type[Any]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )


class CommandWithOldNames(TyperCommand):
    """A command that still takes the options' old names, which its help leaves out."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        return super().parse_args(ctx, current_names(args))


class CommandWithOldSwitch(CommandWithOldNames):
    """The same for `replay`, whose --llm was the opposite of --no-llm and took no value."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        words = [
            word for word, following in pairwise([*args, "--"]) if word != "--llm" or not following.startswith("-")
        ]
        try:
            return super().parse_args(ctx, list(words))
        except typer.BadParameter as error:
            if "--llm" not in words:
                raise
            words.remove("--llm")
            try:
                return super().parse_args(ctx, words)  # "--llm LOG", if LOG was what is missing
            except typer.BadParameter:
                raise error from None


def current_names(words: Sequence[str]) -> list[str]:
    """A command line with today's names: --pack for --together, --interest yes for --interest alone, and so on."""
    out: list[str] = []
    for word, following in pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if word == "--interest" and (not following or following.startswith("-")):
            out += ["--interest", "yes"]
        elif word == "--no-interest":
            out += ["--interest", "no"]
        elif name in RENAMED:
            print(f"{name} is called {RENAMED[name]} now; the old name will go", file=sys.stderr)
            out.append(RENAMED[name] + equals + value)
        else:
            out.append(word)
    return out
