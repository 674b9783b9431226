"""Texts about partitions that need no LLM: the statistics sentences, and a rich template of all the facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection, select

from fusion.features.interest_vectors import InterestVectors
from fusion.features.log import Array
from fusion.interests.text_vectors import Encoder
from interest.store.sql import partition_of
from interest.store.tables import partitions
from interest.write.backlog import Plan, Work, load, read_categories
from interest.write.cascade import plain_shift, plain_summary
from interest.write.prompts import PROMPTS, Style

AT_ONCE = 200  # partitions whose facts are read together
ENCODED = 256  # texts a call of the encoder


class Texts(NamedTuple):
    """What is said about one partition."""

    summary: str
    shift: str  # empty for a user's first partition


Write = Callable[[Work, Style], Texts]


def statistics(work: Work, style: Style) -> Texts:
    """The plain sentences that stand in where an LLM failed."""
    evidence = work.evidence
    return Texts(plain_summary(evidence.facts, style).text, plain_shift(evidence.before, evidence.facts, style).text)


def template(work: Work, style: Style) -> Texts:
    """All that a capable LLM is told: counts and values of categories, the titles valued most and least, the profile.

    The prompts of json-1, without the question at their end.
    """
    prompt, evidence = PROMPTS["json-1"], work.evidence
    summary = prompt.summary(evidence.facts, None, 0, style).messages[-1].content
    shift = ""
    if evidence.before is not None:
        shift = prompt.shift(evidence.before, evidence.facts, "", "", 0, style).messages[-1].content
    return Texts(*(text.rpartition("\n\n")[0] for text in (summary, shift)))


def vectors_of(
    connection: Connection,
    users: Sequence[str],
    held: InterestVectors,
    write: Write,
    style: Style,
    encoder: Encoder,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Array, Array]:
    """(Q, d) of the summaries and of the shifts (zeros where there is none) of the partitions of `held`, in order."""
    owner = np.repeat(np.arange(len(held.starts) - 1), np.diff(held.starts))
    place = {(users[int(user)], int(index)): at for at, (user, index) in enumerate(zip(owner, held.index, strict=True))}
    texts = [Texts("", "")] * len(place)
    for work in _works(connection, held.generation, place, style):
        texts[place[work.user_id, work.partition.index]] = write(work, style)
    distinct = sorted({text for pair in texts for text in pair if text})
    vectors: dict[str, Array] = {}
    for start in range(0, len(distinct), ENCODED):
        chosen = distinct[start : start + ENCODED]
        vectors |= dict(zip(chosen, encoder(chosen), strict=True))
        advance(len(chosen))
    nothing = np.zeros(held.width // 2, np.float32)
    return (
        np.stack([vectors.get(pair.summary, nothing) for pair in texts]),
        np.stack([vectors.get(pair.shift, nothing) for pair in texts]),
    )


def _works(connection: Connection, generation: int, wanted: dict[tuple[str, int], int], style: Style) -> Iterator[Work]:
    query = select(partitions).where(partitions.c.generation == generation)
    rows = connection.execute(query.order_by(partitions.c.user_id, partitions.c.index)).mappings().all()
    heads = [partition_of(row) for row in rows if (row["user_id"], row["index"]) in wanted]
    plan, categories = Plan(style=style), read_categories(connection)
    for start in range(0, len(heads), AT_ONCE):
        yield from load(connection, plan, heads[start : start + AT_ONCE], categories)
