"""Dataclasses as groups of options; old names of options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from streams.commands.option_groups import CommandWithOldSwitch, current_names, with_groups

Size = Annotated[int, typer.Option(min=1, help="How large.")]


@dataclass(frozen=True, kw_only=True)
class Shape:
    size: Size = 3
    name: Annotated[str, typer.Option(help="What it is called.")] = "box"


@dataclass(frozen=True, kw_only=True)
class LargeShape(Shape):
    size: Size = 30


def run(*words: str) -> tuple[list[object], str]:
    got: list[object] = []
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @with_groups
    def draw(shape: LargeShape, colour: Annotated[str, typer.Option(help="Of the line.")] = "red") -> None:
        """Draw a shape."""
        got.extend((shape, colour))

    return got, CliRunner().invoke(app, words).output


def test_a_group_comes_as_its_dataclass_with_the_subclasss_defaults() -> None:
    assert run()[0] == [LargeShape(size=30, name="box"), "red"]
    assert run("--size", "4", "--colour", "blue", "--name", "tin")[0] == [LargeShape(size=4, name="tin"), "blue"]


def test_the_help_shows_every_field_and_a_fields_limits_hold() -> None:
    _, shown = run("--help")
    for text in ("Draw a shape.", "--size", "How large.", "default: 30", "--name", "What it is called.", "--colour"):
        assert text in shown
    got, refused = run("--size", "0")
    assert (got, "--size" in refused) == ([], True)


def test_old_names_become_todays(capsys: pytest.CaptureFixture[str]) -> None:
    assert current_names(["--together", "5", "--together=6"]) == ["--pack", "5", "--pack=6"]
    assert "--together is called --pack now" in capsys.readouterr().err
    assert current_names(["--interest", "--out", "x"]) == ["--interest", "yes", "--out", "x"]
    assert current_names(["--out", "x", "--interest"]) == ["--out", "x", "--interest", "yes"]
    assert current_names(["--no-interest"]) == ["--interest", "no"]
    for words in (
        [],
        ["--interest", "auto"],
        ["--interest=no"],
        ["--interest", "maybe"],
        ["--pack", "5", "--label", "value>=4"],
    ):
        assert current_names(words) == words


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ((), None),
        (("--llm",), None),
        (("--llm", "--no-llm"), None),
        (("--llm", "statistics"), "statistics"),
        (("--llm-from", "http://box/v1"), "http://box/v1"),
        (("--llm-from=small",), "small"),
    ],
)
@pytest.mark.parametrize("log_first", [False, True])
def test_replays_old_switch_and_old_name_still_work(words: tuple[str, ...], read: str | None, log_first: bool) -> None:
    got: list[str | None] = []
    app = typer.Typer(rich_markup_mode=None)

    @app.command(cls=CommandWithOldSwitch)
    def replay(
        log: Annotated[str, typer.Argument()],
        llm: Annotated[str | None, typer.Option()] = None,
        no_llm: Annotated[bool, typer.Option("--no-llm")] = False,
    ) -> None:
        got.extend((log, llm))

    result = CliRunner().invoke(app, ["a.csv", *words] if log_first else [*words, "a.csv"])
    assert (result.exit_code, got) == (0, ["a.csv", read])
    if not log_first and read is None:
        assert CliRunner().invoke(app, words).exit_code == 2
