"""Descriptions of items by the language model, one call an item, once: what is missing, the calls, and the rows.

Rows are committed as they come and answers are cached, so that a run that was killed goes on where it stopped. Takes
the LLM as a callable; opens no store and no model.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine, func, select

from interest.errors import Denied, InputError, Refused, Unreadable
from interest.llm.cache import OF_ITEMS, Answers, Usage
from interest.llm.protocol import Complete, Reply, Request
from interest.store.sql import read_items, upsert, writing
from interest.store.tables import behaviors, item_descriptions
from interest.write.interruptible import run
from interest.write.item_prompt import VERSION, Described, Description, item_lines, item_request, read_description

AT_ONCE = 64  # calls in flight: two full batches of the in-process model; a client of a server holds its own limit
COMMIT_S = 0.2  # rows are committed as they come, at most so often
KIND = "description"  # of usage

Ask = Callable[[Request], Awaitable[Reply]]
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which items to ask about."""

    noun: str = "title"  # what prompts call an item
    items: tuple[str, ...] = ()  # only these; empty: all
    limit: int | None = None  # only so many, those with most behaviours
    again: bool = False  # also those that were asked about and got no text
    replace: bool = False  # also those that another model, or another version of the prompt, has described


@dataclass(frozen=True, slots=True)
class Wanted:
    """One item to ask about."""

    item_id: str
    lines: str  # what the prompt tells of it
    attempt: int = 0
    keep: bool = False  # it has a text that stays where the answer is none


@dataclass(slots=True)
class Told:
    """Counts of one run."""

    outcomes: Counter[Described] = field(default_factory=Counter)
    kept: int = 0  # older texts that stay, because the new answer was none
    usage: Usage = field(default_factory=Usage)
    unread: int = 0  # items left as they were, because the replies about them could not be read
    trouble: str = ""  # the last of these replies
    seconds: float = 0.0


def digest(lines: str) -> str:
    """Stands for what the catalogue says of an item: one that changes is asked about again."""
    return hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()


def wanted_items(engine: Engine, model: str, choice: Choice) -> list[Wanted]:
    """The items that lack a description, in order of their ids, or of their behaviours where there is a limit.

    Raises InputError for an item that the catalogue does not have.
    """
    with engine.connect() as connection:
        catalogue = read_items(connection, choice.items or None)
        stored = {row.item_id: row for row in connection.execute(select(item_descriptions))}
        often = _often(connection) if choice.limit is not None else {}
    if absent := [item_id for item_id in choice.items if item_id not in catalogue]:
        raise InputError(f"the store's catalogue has no item {absent[0]!r}; `replay --items FILE` brings items in")
    found = []
    for item_id in sorted(catalogue, key=lambda one: (-often.get(one, 0), one)):
        if not (lines := item_lines(catalogue[item_id])):
            continue
        row = stored.get(item_id)
        if row is None or row.told != digest(lines):
            found.append(Wanted(item_id, lines))
        elif choice.replace and (row.model, row.prompt_version) != (model, VERSION):
            found.append(Wanted(item_id, lines, keep=bool(row.text)))
        elif choice.again and not row.text:
            found.append(Wanted(item_id, lines, row.attempt + 1))
    return found if choice.limit is None else found[: choice.limit]


def _often(connection: Connection) -> dict[str, int]:
    query = select(behaviors.c.item_id, func.count()).group_by(behaviors.c.item_id)
    return {row[0]: row[1] for row in connection.execute(query)}


def describe(
    engine: Engine,
    complete: Complete,
    wanted: Sequence[Wanted],
    *,
    model: str,
    noun: str = "title",
    advance: Advance = lambda _count: None,
    written: Callable[[Connection], None] = lambda _connection: None,
    told: Told | None = None,
) -> Told:
    """Ask about items and store what is answered.

    Args:
        written: called at the end of each transaction.
        told: counts of the run, for a caller who wants them after an error too.

    Raises:
        Unavailable, Denied: the LLM is not there, or refuses everything; what is done is stored, and another run goes
            on from there.
    """
    told = Told() if told is None else told
    rows = _Rows(engine, model, told, advance, written)
    began = time.monotonic()
    try:
        ask_about(engine, complete, wanted, model=model, noun=noun, told=told, took=rows.add)
    finally:
        rows.commit()
        told.seconds = time.monotonic() - began
    return told


def ask_about(
    engine: Engine,
    complete: Complete,
    wanted: Iterable[Wanted],
    *,
    model: str,
    noun: str,
    told: Told,
    took: Callable[[Wanted, Description], None],
) -> None:
    """Ask about items and hand over each answer as it comes; answers are cached in the store, nothing else is written.

    told: gets what it cost, and what could not be read. Raises as `describe` does.
    """
    answers = Answers(engine, complete, model=model, prompt_version=VERSION)

    def unread(_one: Wanted, error: Unreadable) -> None:
        told.unread += 1
        told.trouble = str(error)

    try:
        run(ask_each(lambda request: answers.ask(request, user_id=OF_ITEMS, kind=KIND), wanted, noun, took, unread))
    finally:
        answers.flush()
        told.usage = sum(answers.spent.values(), Usage())


async def ask_each(
    ask: Ask,
    wanted: Iterable[Wanted],
    noun: str,
    took: Callable[[Wanted, Description], None],
    unread: Callable[[Wanted, Unreadable], None],
) -> None:
    """Ask about items, AT_ONCE of them at a time. took: called with each answer, as it comes."""
    left = iter(wanted)

    async def some() -> None:
        for one in left:
            try:
                reply = await ask(item_request(one.lines, noun, one.attempt))
            except Unreadable as error:
                unread(one, error)
            except Denied:  # it would refuse every item: that is for a person to mend
                raise
            except Refused:
                took(one, Description("", Described.REFUSED))
            else:
                took(one, read_description(reply))

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(some())


class _Rows:
    """Descriptions on their way into the store."""

    def __init__(
        self, engine: Engine, model: str, told: Told, advance: Advance, written: Callable[[Connection], None]
    ) -> None:
        self._engine, self._model, self._told = engine, model, told
        self._advance, self._written = advance, written
        self._waiting: list[tuple[Wanted, Description]] = []
        self._committed_at = time.monotonic()

    def add(self, one: Wanted, description: Description) -> None:
        self._waiting.append((one, description))
        if time.monotonic() - self._committed_at >= COMMIT_S:
            self.commit()

    def commit(self) -> None:
        """Store what is answered, in one transaction."""
        waiting, self._waiting = self._waiting, []
        self._committed_at = time.monotonic()
        if not waiting:
            return
        new = [(one, description) for one, description in waiting if description.text or not one.keep]
        if new:
            with writing(self._engine) as connection:
                upsert(connection, item_descriptions, [self._row(*pair) for pair in new])
                self._written(connection)
        self._told.kept += len(waiting) - len(new)
        self._told.outcomes.update(description.outcome for _, description in waiting)
        self._advance(len(waiting))

    def _row(self, one: Wanted, description: Description) -> dict[str, object]:
        return {
            "item_id": one.item_id,
            "text": description.text,
            "outcome": description.outcome.value,
            "model": self._model,
            "prompt_version": VERSION,
            "told": digest(one.lines),
            "attempt": one.attempt,
        }
