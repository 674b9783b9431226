"""The command `interestream`. Commands import torch and transformers only when they run."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

import streams.commands.train_bahe  # (adds itself to `train`)
import streams.commands.train_kv  # noqa: F401  (and so does this)
from interest.errors import InterestreamError
from streams.commands.activate import activate
from streams.commands.adapt import adapt
from streams.commands.agent import agent
from streams.commands.bank import bank
from streams.commands.dead import dead
from streams.commands.describe import describe
from streams.commands.examples import EXAMPLES
from streams.commands.fetch import fetch
from streams.commands.forget import forget
from streams.commands.fuse import fuse
from streams.commands.lag import lag
from streams.commands.learn import learn
from streams.commands.nearest import nearest
from streams.commands.option_groups import CommandWithOldSwitch
from streams.commands.page import page
from streams.commands.pretrain import pretrain
from streams.commands.rates import rates
from streams.commands.replay import replay
from streams.commands.review import review
from streams.commands.score import score
from streams.commands.serve import serve
from streams.commands.settings import settings
from streams.commands.stats import stats
from streams.commands.subscribe import subscribe
from streams.commands.timeline import timeline
from streams.commands.topics import topics
from streams.commands.train import train
from streams.commands.tune import tune
from streams.commands.worth import worth

app = typer.Typer(
    help="Follow user behaviour: partitions, interests written by an LLM, representations and CTR scores.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would take a third of the time of --help
)

app.command()(activate)
app.command()(adapt)
app.command()(agent)
app.add_typer(bank, name="bank")
app.add_typer(dead, name="dead")
app.command()(describe)
app.command()(fetch)
app.command()(forget)
app.command()(fuse)
app.command()(lag)
app.command()(learn)
app.command()(page)
app.command()(rates)
app.command(cls=CommandWithOldSwitch)(replay)
app.command()(review)
app.command()(score)
app.command()(nearest)
app.command()(serve)
app.command()(settings)
app.command()(stats)
app.command()(subscribe)
app.command()(timeline)
app.add_typer(topics, name="topics")
app.add_typer(pretrain, name="pretrain")
app.add_typer(train, name="train")
app.add_typer(tune, name="tune")
app.command()(worth)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"interestream {version('interestream')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _add_examples(group: typer.Typer, path: str = "") -> None:
    for command in group.registered_commands:
        name = str(command.name or getattr(command.callback, "__name__", ""))
        command.epilog = f"Example: {EXAMPLES[path + name]}"
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        _add_examples(inner.typer_instance, f"{path}{inner.name} ")


_add_examples(app)


# Commands that keep nothing of what they had done: they read, or write at their end alone.
_ANEW = "dead list, dead show, lag, nearest, rates, review, score, settings, stats, timeline, topics show"
BEGIN_ANEW = frozenset(_ANEW.split(", "))


class _InterruptedError(BaseException):
    """Ctrl-C; not KeyboardInterrupt, which typer would turn into a bare "Aborted!"."""


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise _InterruptedError


def _command() -> str:
    """The command that was asked for: "learn", "topics show"."""
    words = sys.argv[1:3]
    return " ".join(words) if " ".join(words) in EXAMPLES else "".join(words[:1])


def what_is_kept(command: str) -> str:
    """What becomes of a command's work when it ends in the middle."""
    if command in BEGIN_ANEW:
        return "nothing is kept, the same command begins anew"
    if command == "page":
        return "the same command shows the page again"
    if command == "serve":
        return "what was answered is kept, the same command serves again"
    return "what was finished is kept, the same command goes on from there"


def main() -> None:
    # torch reads it when it is loaded: threads that spin while they wait slow it 15-fold on a machine that is shared
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except InterestreamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
    except Exception as error:
        from streams.store.disk import disk_problem

        problem = disk_problem(error)
        if problem is None:
            raise
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except _InterruptedError:
        print(f"interrupted; {what_is_kept(_command())}", file=sys.stderr)
        if "torch" in sys.modules:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)  # in the middle of a load or a batch, the interpreter's own end takes a minute
        sys.exit(130)
