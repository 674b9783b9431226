"""Behaviours that come into a store as ingest leaves them, and what a behaviour bank ought to hold of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Engine, func, select

from fusion.bank.texts import store_texts
from fusion.bank.vectors import read_vectors
from fusion.encoders.behavior_text import Template, item_text
from fusion.encoders.recipe import Recipe
from fusion.encoders.split_llm import LowerLayers
from fusion.tables import bank_marks, bank_vectors, banks
from interest.store.sql import add_up, insert_new, writing
from interest.store.tables import behaviors
from streams.resolve.bank_fill import FillPass
from streams.store.tables import offsets
from tests.support.ctr_world import catalogue, fill, random_rows

USERS, EACH = 6, 12
TEXTS = [f"rated {n % 5}: Film {n}" for n in range(30)]


def fill_store(engine: Engine) -> None:
    """USERS with EACH behaviours, the catalogue, and no partition closed."""
    fill(engine, random_rows(3, user_count=USERS, each=EACH), user_count=USERS)


def add_behaviors(engine: Engine, user_id: str, first: int, *values: float) -> None:
    """More behaviours of a user, in one transaction with the count of what was accepted."""
    rows = [
        {"user_id": user_id, "seq": first + n, "item_id": f"i{n}", "action": "rate", "at": 1e9 + n, "value": value}
        for n, value in enumerate(values)
    ]
    counted = {"offset": len(rows), "accepted": len(rows), "late": 0, "duplicates": 0, "rejected": 0}
    with writing(engine) as connection:
        insert_new(connection, behaviors, rows)
        add_up(connection, offsets, [{"source": "topic:behaviors", "partition": 0, "digest": ""} | counted])


def texts_of(engine: Engine) -> set[str]:
    """Every behaviour's text, and the item texts of what was done something to."""
    with engine.connect() as connection:
        found = store_texts(connection, Template())
        done = set(connection.scalars(select(behaviors.c.item_id)))
    book = catalogue(40)
    return ({*found.texts[: found.distinct]} | {item_text(Template(), book.get(item)) for item in done}) - {""}


def newest(engine: Engine) -> dict[str, int]:
    query = select(behaviors.c.user_id, func.max(behaviors.c.seq)).group_by(behaviors.c.user_id)
    with engine.connect() as connection:
        return dict(connection.execute(query).all())


def watermarks(engine: Engine, recipe: Recipe) -> dict[str, int]:
    query = select(bank_marks.c.user_id, bank_marks.c.seq).where(bank_marks.c.bank == recipe.id)
    with engine.connect() as connection:
        return dict(connection.execute(query).all())


def vectors(engine: Engine, recipe: Recipe) -> dict[bytes, bytes | None]:
    """By key; None where it is a claim."""
    query = select(bank_vectors.c.key, bank_vectors.c.vector).where(bank_vectors.c.bank == recipe.id)
    with engine.connect() as connection:
        return {bytes(key): vector and bytes(vector) for key, vector in connection.execute(query)}


def is_full(engine: Engine, recipe: Recipe) -> bool:
    """Everything is there, and marked."""
    held = vectors(engine, recipe)
    return watermarks(engine, recipe) == newest(engine) and held.keys() == set(recipe.keys(sorted(texts_of(engine))))


def computed(engine: Engine) -> int:
    """Texts that took a forward pass so far."""
    with engine.connect() as connection:
        return int(connection.scalar(select(banks.c.computed)) or 0)


def content(engine: Engine, recipe: Recipe) -> tuple[Any, ...]:
    return vectors(engine, recipe), watermarks(engine, recipe)


def read_held(engine: Engine, recipe: Recipe, texts: Sequence[str]) -> dict[str, np.ndarray]:
    with engine.connect() as connection:
        found = read_vectors(connection, recipe.id, recipe.keys(texts))
    return {text: found[key] for text, key in zip(texts, recipe.keys(texts), strict=True) if key in found}


class CountingEncoder:
    """The lower layers, noting the texts they were given; `before` is called before each batch."""

    def __init__(self, lower: LowerLayers, before: Callable[[], None] = lambda: None) -> None:
        self.recipe, self.width, self.batch_texts = lower.recipe, lower.width, lower.batch_texts
        self._lower, self._before = lower, before
        self.seen: list[str] = []

    def __call__(self, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None, /) -> np.ndarray:
        self._before()
        self.seen += texts
        return self._lower(texts, advance)


class InterruptedEncoder:
    """The lower layers, with something that happens before the texts of the first call are done."""

    def __init__(self, lower: LowerLayers, happens: Callable[[], object]) -> None:
        self.recipe, self.width, self.batch_texts = lower.recipe, lower.width, lower.batch_texts
        self._lower, self._left = lower, [happens]

    def __call__(self, texts: Sequence[str], advance: Callable[[int], None], /) -> np.ndarray:
        while self._left:
            self._left.pop()()
        return self._lower(texts, advance)


def run_pass(fill_pass: FillPass) -> list[int]:
    steps = []
    while not fill_pass.is_done:
        steps.append(fill_pass.step())
    return steps
