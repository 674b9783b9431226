"""The command line as a whole: its version, completion, an example of every command, and colour only where wanted."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

from streams.cli import BEGIN_ANEW, app
from streams.commands.examples import EXAMPLES
from streams.store.engine import open_store
from tests.support.command_line import run


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_the_version_is_the_packages() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"interestream {version('interestream')}\n")


def test_every_command_has_an_example_and_every_example_a_command() -> None:
    assert {" ".join(path) for path in COMMANDS} == EXAMPLES.keys()


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_an_example_is_shown_in_the_help_and_is_a_command_line_that_is_understood(path: tuple[str, ...]) -> None:
    example = EXAMPLES[" ".join(path)]
    shown = run(*path, "--help").stdout
    assert f"Example: {example}" in " ".join(shown.split())
    words = shlex.split(example)
    assert words[: len(path) + 1] == ["interestream", *path]
    COMMANDS[path].make_context("interestream", words[len(path) + 1 :])  # parses, converts and checks; runs nothing


@pytest.mark.parametrize(
    ("command", "module", "said"),
    [
        ("review", "interest.review.texts.versions_of", "nothing is kept, the same command begins anew"),
        ("learn --llm statistics", "interest.write.backlog.count_open", "the same command goes on from there"),
    ],
)
def test_an_interrupted_command_says_what_is_kept_of_its_own_work(
    tmp_path: Path, command: str, module: str, said: str
) -> None:
    """Ctrl-C comes in the middle of a function of its own."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    open_store(url, create=True).dispose()
    place, _, name = module.rpartition(".")
    script = (
        f"import os, signal, sys, {place} as module\n"
        f"module.{name} = lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)\n"
        "from streams.cli import main\nmain()"
    )
    words = [*command.split(), "--store", url, *["--no-retrieval"] * (command == "review")]
    starter = [sys.executable, "-c", script, *words]
    done = subprocess.run(starter, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 130, done.stderr
    assert f"interrupted; {'what was finished is kept, ' * (command != 'review')}{said}" in done.stderr


def test_what_is_said_of_interrupted_commands_is_of_commands_that_there_are() -> None:
    assert EXAMPLES.keys() > BEGIN_ANEW
    assert not {"learn", "describe", "replay", "fuse", "bank fill", "worth"} & BEGIN_ANEW


def test_completion_is_offered_for_commands_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    # typer asks which shell started it: under make that is sh, which has no completion
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: "bash")
    shown = run("--show-completion")
    assert shown.exit_code == 0, shown.output
    assert "_INTERESTREAM_COMPLETE=complete_bash" in shown.stdout.replace("ROOT", "INTERESTREAM")
    environment = os.environ | {
        "_INTERESTREAM_COMPLETE": "complete_bash",
        "COMP_WORDS": "interestream score --pa",
        "COMP_CWORD": "2",
    }
    starter = [sys.executable, "-c", "import sys; sys.argv[0] = 'interestream'; from streams.cli import main; main()"]
    done = subprocess.run(starter, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert "--pairs" in done.stdout.split(), done.stderr


@pytest.mark.parametrize("no_colour", [True, False])
def test_a_progress_bar_has_no_colours_under_no_color(no_colour: bool) -> None:
    """On a real terminal; without NO_COLOR the same bar has colours, so that the test can fail."""
    script = "from streams.progress import progress\nwith progress('Counting', 3) as advance: advance(3)"
    environment = {name: text for name, text in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm-256color"}
    environment |= {"NO_COLOR": "1"} if no_colour else {}
    leader, follower = pty.openpty()
    subprocess.run([sys.executable, "-c", script], stderr=follower, env=environment, timeout=120, check=True)
    os.close(follower)
    shown = os.read(leader, 1_000_000).decode()
    os.close(leader)
    assert "3/3" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    colours = re.findall(r"\x1b\[[0-9;]*(?:3|4|9|10)[0-9](?:;[0-9]+)*m", shown)
    assert (colours == []) is no_colour


def test_score_starts_with_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """Its start is `import torch` and a fifth; each of these would be felt. It ends there, for lack of a store."""
    words = ["score", tmp_path, "--user", "u", "--items", "i", "--store", f"sqlite:///{tmp_path / 'none.db'}"]
    starter = [sys.executable, "-X", "importtime", "-m", "streams", *map(str, words)]
    done = subprocess.run(starter, capture_output=True, text=True, timeout=240, check=False)
    assert "error: " in done.stderr
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"torch", "sqlalchemy", "fusion.serving.score"} <= imported
    heavy = {"transformers", "tokenizers", "torch._dynamo", "torch._inductor", "sympy", "pandas", "sklearn", "scipy"}
    heavy |= {"pyarrow", "aiokafka", "rich", "sqlalchemy.dialects.postgresql", "sqlalchemy.orm"}
    assert imported & heavy == set()
