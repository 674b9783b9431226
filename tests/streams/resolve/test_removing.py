"""A bank from which something is removed while it is filled: its vectors and marks come back whole."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from sqlalchemy import Engine, delete, select

from fusion.bank import texts as bank_texts
from fusion.bank.texts import StoreTexts, collect_garbage
from fusion.bank.vectors import fill, read_recipes
from fusion.encoders.split_llm import LowerLayers
from fusion.tables import bank_marks, banks
from interest.store import counters
from interest.store.tables import behaviors
from streams.resolve import bank_fill as filling
from streams.resolve.bank_fill import FillPass, accepted_counts
from tests.support.bank_world import (
    EACH,
    USERS,
    InterruptedEncoder,
    add_behaviors,
    fill_store,
    is_full,
    run_pass,
    texts_of,
    vectors,
    watermarks,
)

pytestmark = pytest.mark.model


def gc(engine: Engine, *keep: str) -> None:
    """As `interestream bank gc` does it."""
    collect_garbage(engine, keep or None, lambda connection: counters.increment(connection, counters.REMOVALS))


def whole(engine: Engine, lower: LowerLayers) -> None:
    """Every vector is there and right, every mark, and the bank is known to `stats` and `gc`."""
    assert is_full(engine, lower.recipe)
    texts = sorted(texts_of(engine))
    held, made = vectors(engine, lower.recipe), lower(texts).astype("<f2")
    assert [held[key] for key in lower.recipe.keys(texts)] == [row.tobytes() for row in made]
    with engine.connect() as connection:
        assert read_recipes(connection) == {lower.recipe.id: lower.recipe}


@pytest.mark.parametrize("step", range(7))
def test_a_bank_removed_before_any_step_of_a_walk_is_filled_whole(
    engine: Engine, lower: LowerLayers, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(filling, "USERS", 4)
    monkeypatch.setattr(filling, "BEHAVIORS", 17)  # users are cut in two
    fill_store(engine)
    fill_pass = FillPass(engine, lower)
    for _ in range(step):
        fill_pass.step()
    gc(engine, "another")
    run_pass(fill_pass)
    whole(engine, lower)


@pytest.mark.parametrize("known", [False, True])
def test_a_bank_removed_in_a_step_is_filled_whole(
    engine: Engine, lower: LowerLayers, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    """While texts are computed; and after all were found in the bank, before the marks are moved."""
    fill_store(engine)
    if not known:
        run_pass(FillPass(engine, InterruptedEncoder(lower, lambda: gc(engine, "another"))))
        whole(engine, lower)
        return
    fill(engine, lower, sorted(texts_of(engine)))
    real, removals = filling.fill, iter([lambda: gc(engine, "another")])

    def filled(*arguments: object, **options: object) -> object:
        out = real(*arguments, **options)  # type: ignore[arg-type]
        next(removals, lambda: None)()
        return out

    monkeypatch.setattr(filling, "fill", filled)
    run_pass(FillPass(engine, lower))
    whole(engine, lower)


def test_filling_from_outside_the_stream_survives_a_removal_too(engine: Engine, lower: LowerLayers) -> None:
    fill_store(engine)
    texts = sorted(texts_of(engine))
    for chunk in (5, 1000):
        fill(engine, InterruptedEncoder(lower, lambda: gc(engine, "another")), texts, chunk=chunk)
        assert vectors(engine, lower.recipe).keys() == set(lower.recipe.keys(texts))
        assert None not in vectors(engine, lower.recipe).values()
        gc(engine, "another")
        with engine.connect() as connection:
            assert not connection.execute(select(banks)).all()


def test_what_is_done_again_while_it_is_collected_keeps_no_mark_without_its_vector(
    engine: Engine, lower: LowerLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_store(engine)
    run_pass(FillPass(engine, lower))
    with engine.begin() as connection:  # its user was forgotten, say; the vectors stay until they are collected
        rows = connection.execute(select(behaviors).where(behaviors.c.user_id == "u1")).mappings().all()
        connection.execute(delete(behaviors).where(behaviors.c.user_id == "u1"))
    real: Callable[..., StoreTexts] = bank_texts.store_texts

    def read(*arguments: object) -> StoreTexts:
        out = real(*arguments)
        for n, row in enumerate(rows):
            with engine.begin() as connection:
                connection.execute(behaviors.insert().values({**row, "user_id": "late", "seq": n}))
        run_pass(FillPass(engine, lower))
        return out

    monkeypatch.setattr(bank_texts, "store_texts", read)
    before = len(vectors(engine, lower.recipe))
    gc(engine)
    assert len(vectors(engine, lower.recipe)) < before
    assert watermarks(engine, lower.recipe) == {f"u{n}": EACH - 1 for n in range(USERS)}  # all others stay
    with engine.begin() as connection:
        connection.execute(delete(bank_marks).where(bank_marks.c.user_id == "u1"))  # as forgetting does
    run_pass(FillPass(engine, lower))
    whole(engine, lower)


def test_a_removal_is_something_new_to_the_stage(store: Engine, lower: LowerLayers) -> None:
    fill_store(store)
    add_behaviors(store, "u1", EACH, 1.0)
    run_pass(FillPass(store, lower))
    with store.connect() as connection:
        before = accepted_counts(connection)
    gc(store, "another")
    with store.connect() as connection:
        assert accepted_counts(connection) != before


def test_removals_over_and_over_while_two_walk(engine: Engine, lower: LowerLayers) -> None:
    fill_store(engine)
    rng, ended = np.random.default_rng(0), threading.Event()
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        return run

    def fillers() -> None:
        while not ended.is_set():
            run_pass(FillPass(engine, lower))

    def remover() -> None:
        for turn in range(12):
            gc(engine, *(["another"] if turn % 2 else []))
            ended.wait(float(rng.uniform(0.0, 0.1)))
        ended.set()

    threads = [threading.Thread(target=guarded(work)) for work in (fillers, fillers, remover)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    run_pass(FillPass(engine, lower, wait=True))
    whole(engine, lower)
