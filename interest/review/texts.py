"""Reads the texts to review from a store, each with what its partition and its user's next one say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Connection, and_, func, select, tuple_

from interest.check.evidence import Evidence
from interest.errors import InputError
from interest.facts.base_rates import BaseRates
from interest.facts.counts import Facts
from interest.store.sql import partition_of
from interest.store.tables import interests, partitions
from interest.types import Interest, Outcome, Partition, Source
from interest.write.backlog import Plan, Work, load, read_categories
from interest.write.prompts import Style
from interest.write.rates import rates_of, versions_named
from interest.write.writer import interest_of_row

USERS = 50  # whose texts are read together
AT_ONCE = 100  # partitions whose facts are read together
KEPT = (Outcome.OK, Outcome.TRIMMED)
ASKED = (*KEPT, Outcome.REJECTED, Outcome.GENERIC, Outcome.TRUNCATED, Outcome.REFUSED)  # an LLM was asked for the text


@dataclass(slots=True)
class ReviewedText:
    """A stored summary, the evidence that it rests on, and the facts of the user's next partition, where there is one.

    The facts hold titles: some 20 kB a partition.
    """

    interest: Interest
    work: Work
    after: Facts | None
    ordinal: int  # 0, 1, 2... of its partition among the user's, where scenes are kept apart among the scene's
    rates: BaseRates | None = None  # that the text was written by: what "more than others" is held against

    @property
    def evidence(self) -> Evidence:
        return _evidence(self.work, self.rates)

    @property
    def kept(self) -> bool:
        """Whether the LLM wrote it and the check kept it: of these texts alone is anything measured."""
        return self.interest.summary_source == Source.LLM


def _evidence(work: Work, rates: BaseRates | None) -> Evidence:
    return replace(work.evidence, before=None, rates=rates)


def versions_of(connection: Connection, prompt_version: str | None, model: str | None) -> list[tuple[str, str, int]]:
    """The (prompt version, model, newest generation) of the texts to review. The name alone of a version that reads
    base rates ("plain-3") is enough where the store has one of it.

    Raises InputError where there are none.
    """
    generation = connection.scalar(select(partitions.c.generation).order_by(partitions.c.generation.desc()).limit(1))
    query = select(interests.c.prompt_version, interests.c.model).where(interests.c.generation == (generation or 0))
    found = sorted((row[0], row[1]) for row in connection.execute(query.distinct()))
    by_model = [pair for pair in found if model in (None, pair[1])]
    named = None if prompt_version is None else versions_named(prompt_version, {version for version, _ in by_model})
    wanted = [pair for pair in by_model if named is None or pair[0] in named]
    if not found:
        raise InputError("this store has no texts; `interestream learn` writes them")
    if named is not None and len(named) > 1:
        raise InputError(f"this store has several versions of {prompt_version}; give one: {', '.join(named)}")
    if not wanted:
        asked = f" of prompt version {prompt_version}" * bool(prompt_version) + f" by the model {model}" * bool(model)
        there = "; ".join(f"{version} by {name}" for version, name in found)
        raise InputError(f"this store has no texts{asked}; it has {there}")
    return [(*pair, generation or 0) for pair in wanted]


def read_texts(
    connection: Connection,
    prompt_version: str,
    model: str,
    generation: int,
    most: int,
    advance: Callable[[int], None] = lambda _count: None,
    style: Style = Style(),  # noqa: B008  # frozen
) -> list[ReviewedText]:
    """The texts of one prompt version and model: all, or those of whole users up to about `most` texts.

    Users are drawn by a hash of their ids, so that the same store gives the same texts. `advance` is called with the
    number of partitions read. style: what the texts call the items; other nouns than they were written with are words
    from nowhere.
    """
    mine = _texts_by(prompt_version, model, generation)
    per_user = select(interests.c.user_id, func.count()).where(mine).group_by(interests.c.user_id)
    users = _draw({row[0]: row[1] for row in connection.execute(per_user)}, most)
    found: list[ReviewedText] = []
    plan, categories = Plan(prompt_version=prompt_version, style=style), read_categories(connection)
    rates = rates_of(connection, prompt_version)
    for start in range(0, len(users), USERS):
        some = users[start : start + USERS]
        rows = connection.execute(select(interests).where(mine, interests.c.user_id.in_(some))).mappings()
        texts = {(row["user_id"], row["index"]): interest_of_row(row) for row in rows}
        works: dict[tuple[str, int], Work] = {}
        heads, following, ordinals = _heads(connection, some, generation, texts)
        for at in range(0, len(heads), AT_ONCE):
            loaded = load(connection, plan, heads[at : at + AT_ONCE], categories)
            works |= {(work.user_id, work.partition.index): work for work in loaded}
            advance(len(loaded))
        for (user, index), interest in sorted(texts.items()):
            if (user, index) in works:
                after = works.get((user, following.get((user, index), -1)))
                facts, ordinal = after.evidence.facts if after else None, ordinals[user, index]
                found.append(ReviewedText(interest, works[user, index], facts, ordinal, rates))
    return found


def read_others(
    connection: Connection,
    prompt_version: str,
    model: str,
    generation: int,
    most: int,
    style: Style = Style(),  # noqa: B008  # frozen
    advance: Callable[[int], None] = lambda _count: None,
) -> list[tuple[str, Evidence]]:
    """The first partition with a text of each of `most` users, drawn as those of `read_texts` are.

    A text is held against these; the texts of few users with long histories are company for nobody.
    """
    mine = _texts_by(prompt_version, model, generation)
    first = select(interests.c.user_id, func.min(interests.c.index).label("index")).where(mine)
    found = {row[0]: row[1] for row in connection.execute(first.group_by(interests.c.user_id))}
    users = _draw(dict.fromkeys(found, 1), most)
    heads = []
    for start in range(0, len(users), USERS):
        some = [(user, found[user]) for user in users[start : start + USERS]]
        query = select(partitions).where(tuple_(partitions.c.user_id, partitions.c.index).in_(some))
        rows = connection.execute(query.where(partitions.c.generation == generation)).mappings()
        heads += sorted((partition_of(row) for row in rows), key=lambda head: users.index(head.user_id))
    plan, categories = Plan(prompt_version=prompt_version, style=style), read_categories(connection)
    rates = rates_of(connection, prompt_version)
    found_others: list[tuple[str, Evidence]] = []
    for start in range(0, len(heads), USERS):
        works = load(connection, plan, heads[start : start + USERS], categories)
        found_others += [(work.user_id, _evidence(work, rates)) for work in works]
        advance(len(works))
    return found_others


def _texts_by(prompt_version: str, model: str, generation: int) -> ColumnElement[bool]:
    return and_(
        interests.c.prompt_version == prompt_version, interests.c.model == model, interests.c.generation == generation
    )


def _draw(counts: dict[str, int], most: int) -> list[str]:
    """Whole users, by a hash of their ids, until `most` texts are there."""
    drawn, total = [], 0
    for user in sorted(counts, key=lambda user: hashlib.sha256(user.encode(errors="surrogatepass")).digest()):
        if total >= most:
            break
        drawn.append(user)
        total += counts[user]
    return drawn


def _heads(
    connection: Connection, users: Sequence[str], generation: int, texts: Collection[tuple[str, int]]
) -> tuple[list[Partition], dict[tuple[str, int], int], dict[tuple[str, int], int]]:
    """The partitions of the texts, and those that follow them; of each, the index of the one that follows; ordinals."""
    query = select(partitions).where(partitions.c.user_id.in_(users), partitions.c.generation == generation)
    rows = connection.execute(query.order_by(partitions.c.user_id, partitions.c.index)).mappings()
    heads = [partition_of(row) for row in rows]
    following = {(head.user_id, head.before): head.index for head in heads if head.before is not None}
    ordinals: dict[tuple[str, int], int] = {}
    for head in heads:
        before = -1 if head.before is None else ordinals.get((head.user_id, head.before), -1)
        ordinals[head.user_id, head.index] = head.index if head.scene is None else before + 1
    wanted = {*texts, *((key[0], following[key]) for key in texts if key in following)}
    return [head for head in heads if (head.user_id, head.index) in wanted], following, ordinals
