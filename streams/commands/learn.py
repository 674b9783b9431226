"""`interestream learn`: the LLM writes the interests of closed partitions that have none yet."""

from __future__ import annotations

import enum
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from streams.commands.options import LlmBackend, PromptVersion, Store
from streams.resolve.llm import nouns
from streams.settings.load import store_url

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from sqlalchemy import Engine

    from interest.facts.base_rates import BaseRates
    from interest.write.backfill import Estimate, Learned
    from interest.write.backlog import Plan
    from streams.resolve.llm import OpenLlm


class Again(enum.StrEnum):
    """The outcomes that may be asked for once more."""

    REFUSED = "refused"


def learn(
    user: Annotated[list[str] | None, typer.Option(help="Only this user; repeat the option for more.")] = None,
    users_limit: Annotated[
        int | None, typer.Option(help="Only this many users, those with the longest histories.", min=1)
    ] = None,
    store: Store = None,
    llm: Annotated[
        str | None,
        typer.Option(
            help="The folder of a checkpoint, the URL of an OpenAI-compatible server, or `statistics` for none."
        ),
    ] = None,
    llm_model: Annotated[str | None, typer.Option(help="The model's name on the server.")] = None,
    prompt_version: PromptVersion = None,
    chained: Annotated[bool, typer.Option(help="Show each summary's prompt the summary before it.")] = False,
    batch: Annotated[int, typer.Option(help="Requests decoded together by an LLM in this process.", min=1)] = 32,
    noun: Annotated[str, typer.Option(help="What the texts call an item and items: singular,plural.")] = "title,titles",
    again: Annotated[
        Again | None, typer.Option(help="Also write once more what ended so: `refused` asks for refused texts again.")
    ] = None,
    system_role: Annotated[
        bool,
        typer.Option("--system-role/--no-system-role", help="Without: for a server's model that takes no system role."),
    ] = True,
    llm_backend: LlmBackend = None,
) -> None:
    """Write a summary and a shift for every closed partition without one.

    Interrupt it at any point; the same command goes on from there.
    """
    from interest.types import Outcome
    from interest.write.backlog import Plan
    from interest.write.prompts import Style
    from interest.write.rates import with_rates
    from streams.resolve.llm import open_llm
    from streams.store.coverage import coverage_line, read_coverage
    from streams.store.engine import open_store

    engine = open_store(store_url(store), create=False)
    style = Style(noun=nouns(noun))
    with open_llm(llm, model=llm_model, batch=batch, system_role=system_role, backend=llm_backend) as opened:
        version, rates = with_rates(engine, prompt_version or opened.prompt_version, freeze_new=_freeze)
        plan = Plan(
            prompt_version=version,
            rates=rates,
            chained=chained,
            style=style,
            users=tuple(user or ()),
            users_limit=users_limit,
            again=(Outcome(again.value),) if again else (),
        )
        learn_with(engine, opened, plan)
        with engine.connect() as connection:
            print(coverage_line(read_coverage(connection)), file=sys.stderr, flush=True)


def _freeze(engine: Engine) -> BaseRates:
    from streams.commands.rates import freeze_with_progress, say_frozen

    frozen = freeze_with_progress(engine)
    say_frozen(frozen)
    return frozen


def learn_with(engine: Engine, opened: OpenLlm, plan: Plan) -> Learned:
    """Say what it will take, then do it with a progress bar, and report what was done, also where an error ended it.

    Raises LlmError where partitions were left, because the LLM was not there, refused everything, or could not be read.
    """
    from interest.errors import Unreadable
    from interest.llm.cache import Answers
    from interest.write.backfill import Learned, estimate
    from interest.write.backfill import learn as learn_interests
    from interest.write.backlog import count_open
    from streams.progress import progress
    from streams.store.invalidate import delete_derived

    plan.prompt()  # an unknown version is told before anything is asked
    left = count_open(engine, plan, llm=opened.complete is not None)
    answers = None
    if opened.complete is not None and left:
        answers = Answers(engine, opened.complete, model=opened.name, prompt_version=plan.prompt_version)
        expected = estimate(engine, opened.complete, opened.name, plan, answers=answers, begin=_first_texts)
        _say(_cost(expected, opened.name))
    done = Learned()
    try:
        with progress("Learning interests", left, unit="partitions") as advance:
            learn_interests(
                engine,
                opened.complete,
                model=opened.name,
                plan=plan,
                advance=advance,
                corrected=lambda rest: _say("measured so far; left: " + _cost(rest, opened.name)),
                replaced=delete_derived,
                done=done,
                answers=answers,
            )
    finally:
        report(done)
    if done.unread:
        raise Unreadable(
            f"{done.unread:,} partitions are left as they were, because replies about them could not be read: "
            f"{done.trouble}; the same command asks for them again"
        )
    return done


def _first_texts(count: int) -> AbstractContextManager[Callable[[int], None]]:
    """Progress of the texts that the estimate is made of, said before the first of them is there."""
    from streams.progress import progress

    _say(f"asking for {count:,} texts, to say what all will take")
    return progress("Asking", count, unit="texts")


def _cost(expected: Estimate, name: str) -> str:
    tokens = expected.prompt_tokens + expected.completion_tokens
    cost = f"{tokens:,} tokens, {expected.seconds:,.0f} s" if expected.measured else "tokens and time not known yet"
    return f"{expected.partitions:,} partitions with {name}: about {expected.calls:,} calls, {cost}"


def report(done: Learned) -> None:
    """Outcomes, supported share, calls, tokens and seconds, on standard error."""
    from interest.llm.cache import Usage

    spent = sum(done.usage.values(), Usage())
    _say(f"learnt {done.partitions:,} partitions in {done.seconds:,.1f} s")
    for title, outcomes in (("summaries", done.summaries), ("shifts", done.shifts)):
        if outcomes:
            _say(f"  {title}: " + ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(outcomes.items())))
    if done.statements:
        _say(f"  {done.statements:,} statements about titles, from the model's own knowledge: stored apart, unchecked")
    if spent.calls or spent.cached:
        share = f"{done.supported / done.claims:.1%} of {done.claims:,} claims" if done.claims else "no claims"
        _say(f"  supported in the accepted replies, before trimming: {share}")
        _say(
            f"  {spent.calls:,} calls ({spent.cached:,} more from the cache), {spent.prompt_tokens:,} prompt and "
            f"{spent.completion_tokens:,} completion tokens, {spent.seconds:,.1f} s"
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
