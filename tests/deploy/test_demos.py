"""The scripts of the demos: what they type is what the command line takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from streams.cli import app
from streams.replay.rate import parse_rate

SCRIPTS = sorted(Path("deploy").glob("*.sh"))


def typed(script: Path) -> list[list[str]]:
    """The words of every `interestream` command, quotes and pipes taken away."""
    text = script.read_text().replace("\\\n", " ")
    found = re.findall(r"^[^#\n]*?\binterestream ([a-z][^|>&;\n]*)", text, re.MULTILINE)
    return [line.replace('"', "").split() for line in found if "say " not in line]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_command_and_option_of_a_demo_is_there(script: Path) -> None:
    commands = typed(script)
    assert commands
    for words in commands:
        command, left = typer.main.get_command(app), list(words)
        while isinstance(command, typer.core.TyperGroup):
            command = command.commands[left.pop(0)]
        options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        assert {word for word in left if word.startswith("--")} <= options, (script.name, words)


def test_the_rates_of_the_demos_are_rates() -> None:
    rates = [rate for script in SCRIPTS for rate in re.findall(r"--rate (\S+)", script.read_text())]
    assert rates
    for rate in rates:
        parse_rate(rate)
