"""The behaviour bank: filled once whoever fills it and whatever dies, exact, collected, mapped."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sqlalchemy import Engine, delete, func, select, update

from fusion.bank import vectors as bank
from fusion.bank.texts import collect_garbage, span_texts, store_texts
from fusion.bank.vectors import LEASE_S, FillResult, fill
from fusion.bank.watermarks import Span, read_page, split_spans, write_watermarks
from fusion.encoders.behavior_text import Template, behavior_text
from fusion.encoders.sentence import Precision
from fusion.encoders.split_llm import LowerLayers, open_lower_layers, recipe_of
from fusion.tables import bank_vectors, banks
from interest.store.sql import insert_new, item_row
from interest.store.tables import behaviors, items
from interest.types import Item
from streams.store.engine import open_store
from tests.support.bank_world import TEXTS, CountingEncoder, read_held
from tests.support.ctr_world import fill as fill_store
from tests.support.ctr_world import random_rows
from tests.support.processes import killed
from tests.support.tiny_llm import save_llm, save_tokenizer
from tests.support.training_jobs import filling_killed_at

PLAIN = Template()


@pytest.fixture(scope="module")
def lower(llm: Path) -> LowerLayers:
    return open_lower_layers(llm, recipe_of(llm, 2))


def counted(engine: Engine) -> tuple[int, int]:
    with engine.connect() as connection:
        return tuple(connection.execute(select(banks.c.asked, banks.c.computed)).one())  # type: ignore[return-value]


def test_what_is_in_the_bank_is_what_would_be_computed_again(url: str, lower: LowerLayers) -> None:
    engine = open_store(url)
    assert fill(engine, lower, TEXTS, chunk=7) == FillResult(30, 30)
    found = read_held(engine, lower.recipe, TEXTS)
    again = lower(TEXTS[::-1])[::-1].astype(np.float16)  # in other batches
    np.testing.assert_array_equal(np.stack([found[text] for text in TEXTS]), again)
    np.testing.assert_allclose(again, lower(TEXTS), atol=2e-3)  # float16 has 11 bits
    counting = CountingEncoder(lower)
    assert fill(engine, counting, [*TEXTS, "new"]) == FillResult(31, 1)
    assert counting.seen == ["new"]
    assert counted(engine) == (61, 31)
    engine.dispose()


def test_a_filler_hands_over_as_many_texts_as_its_device_is_quick_with(store: Engine, lower: LowerLayers) -> None:
    texts = [f"viewed: Film {n}" for n in range(1300)]
    many: list[int] = []

    class Quick(CountingEncoder):
        def __call__(self, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None, /) -> np.ndarray:
            many.append(len(texts))
            advance(len(texts))
            return np.ones((len(texts), self.width), np.float32)

    for batch_texts, calls in (
        (64, [*[64] * 7, 52] * 2 + [*[64] * 4, 44]),
        (1200, [1200, 100]),
    ):  # pages of 500
        quick = Quick(lower)
        quick.batch_texts = batch_texts
        bank.remove(store, lower.recipe.id)
        many.clear()
        assert fill(store, quick, texts) == FillResult(1300, 1300)
        assert many == calls


@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-3), ("bfloat16", 2e-2)])  # float16 has 11 bits
def test_a_bank_of_either_precision_is_what_is_computed_again(
    store: Engine, llm: Path, lower: LowerLayers, precision: Precision, near: float
) -> None:
    recipe = recipe_of(llm, 2, precision=precision)
    fill(store, open_lower_layers(llm, recipe), TEXTS, chunk=7)
    found = read_held(store, recipe, TEXTS)
    kept = np.stack([found[text] for text in TEXTS])
    np.testing.assert_array_equal(
        open_lower_layers(llm, recipe)(TEXTS[::-1])[::-1].astype(np.float16), kept
    )  # loaded again
    exact = lower(TEXTS)
    assert 0 < np.abs(kept - exact).max() < near * np.abs(exact).max()


def test_several_recipes_lie_side_by_side_and_a_changed_one_finds_nothing(
    store: Engine, llm: Path, lower: LowerLayers, tmp_path: Path
) -> None:
    fill(store, lower, TEXTS)
    before = read_held(store, lower.recipe, TEXTS)
    weights, rope = save_llm(tmp_path / "a" / "tiny", seed=1), save_llm(tmp_path / "b" / "tiny", rope_theta=500.0)
    shutil.copytree(llm, tmp_path / "c" / "tiny")
    save_tokenizer(tmp_path / "c" / "tiny", swap=True)
    others = [
        (llm, recipe_of(llm, 3)),
        (llm, recipe_of(llm, 2, pooling="last")),
        (llm, recipe_of(llm, 2, precision="bfloat16")),
        (llm, recipe_of(llm, 2, template=Template(item="{title}"))),
        *((folder, recipe_of(folder, 2)) for folder in (weights, rope, tmp_path / "c" / "tiny")),
    ]
    for folder, other in others:
        assert read_held(store, other, TEXTS) == {}
        counting = CountingEncoder(open_lower_layers(folder, other))
        fill(store, counting, TEXTS)
        assert len(counting.seen) == len(TEXTS)
    with store.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(banks)) == 1 + len(others)
    after = read_held(store, lower.recipe, TEXTS)
    assert all(np.array_equal(after[text], before[text]) for text in TEXTS)


def test_an_interrupted_filler_loses_nothing_that_it_wrote(store: Engine, lower: LowerLayers) -> None:
    calls = 0

    def stop_at_the_third() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(store, CountingEncoder(lower, stop_at_the_third), TEXTS, chunk=5)
    assert len(read_held(store, lower.recipe, TEXTS)) == 10
    rest = CountingEncoder(lower)
    assert fill(store, rest, TEXTS, chunk=5) == FillResult(30, 20)  # at once: its claims were given up
    assert rest.seen == TEXTS[10:]


def test_a_killed_filler_loses_only_the_batch_in_hand(store: Engine, llm: Path, lower: LowerLayers) -> None:
    killed(filling_killed_at, 3, store.url.render_as_string(hide_password=False), llm)
    assert len(read_held(store, lower.recipe, TEXTS)) == 10
    other = CountingEncoder(lower)
    fill(store, other, TEXTS, chunk=5, wait=False)  # what the dead one claimed is passed by
    assert other.seen == TEXTS[15:]
    later = CountingEncoder(lower)
    fill(store, later, TEXTS, chunk=5, clock=lambda: time.time() + LEASE_S + 1)
    assert later.seen == TEXTS[10:15]
    assert len(read_held(store, lower.recipe, TEXTS)) == len(TEXTS)


def test_two_fillers_at_once_do_no_work_twice(url: str, lower: LowerLayers) -> None:
    """Both hold a chunk at the same time, on SQLite and on PostgreSQL."""
    engine = open_store(url)
    met = threading.Barrier(2, timeout=60)
    fillers = []
    for _ in range(2):
        first = iter([met.wait])
        fillers.append(CountingEncoder(lower, lambda own=first: next(own, lambda: 0)() and None))  # type: ignore[misc]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda one: fill(engine, one, TEXTS, chunk=4), fillers))
    assert all(one.seen for one in fillers)
    assert sorted(fillers[0].seen + fillers[1].seen) == sorted(TEXTS)
    assert [one.computed for one in done] == [len(one.seen) for one in fillers]
    assert len(read_held(engine, lower.recipe, TEXTS)) == len(TEXTS)
    engine.dispose()


def test_a_claim_is_renewed_while_its_filler_works(store: Engine, lower: LowerLayers) -> None:
    """A batch that takes longer than a lease is not taken over: the clock runs on inside it."""
    now = [1000.0]

    class Slow(CountingEncoder):
        def __call__(self, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None, /) -> np.ndarray:
            for _ in range(5):
                now[0] += LEASE_S / 2
                advance(1)
            other = CountingEncoder(lower)
            fill(store, other, texts, clock=lambda: now[0], wait=False)
            assert other.seen == []
            return super().__call__(texts, advance)

    assert fill(store, Slow(lower), TEXTS[:4], clock=lambda: now[0]) == FillResult(4, 4)


def test_a_late_filler_does_not_overwrite(store: Engine, lower: LowerLayers) -> None:
    """A filler that was asleep past its lease writes after another has: the first vector stays."""
    claims = bank.Claims(store, lower.recipe, lower.width, "sleeper")
    bank.register(store, lower.recipe, lower.width)
    keys = lower.recipe.keys(TEXTS[:1])
    assert claims.take(keys) == keys
    with store.begin() as connection:
        connection.execute(update(bank_vectors).values(until=0.0))
    fill(store, lower, TEXTS[:1])
    claims.keep(keys, np.zeros((1, lower.width), np.float32))
    assert np.abs(read_held(store, lower.recipe, TEXTS[:1])[TEXTS[0]]).max() > 0


@pytest.fixture
def world(store: Engine) -> Engine:
    fill_store(store, random_rows(3), interests=True)
    return store


def test_the_stores_texts(world: Engine) -> None:
    with world.connect() as connection:
        found = store_texts(connection, PLAIN)
    assert found.behaviors == 750
    assert len(set(found.texts)) == len(found.texts) > found.distinct > 100
    assert "Item 3, Drama" not in found.texts[: found.distinct]
    assert any(text.startswith("rated 5: Item ") for text in found.texts)


def test_new_behaviours_cost_only_unseen_texts(world: Engine, lower: LowerLayers) -> None:
    with world.connect() as connection:
        rows = connection.execute(
            select(behaviors.c.item_id, behaviors.c.action, behaviors.c.value).where(
                behaviors.c.user_id == "u1", behaviors.c.seq.between(5, 9)
            )
        ).all()
        texts = span_texts(connection, PLAIN, [Span("u1", 5, 9)])
        book = {f"i{i}": Item(item_id=f"i{i}", title=f"Item {i}") for i in range(40)}
    titled = Template(behavior="{did} {value}: {title}", item="{title}")
    with world.connect() as connection:
        short = span_texts(connection, titled, [Span("u1", 5, 9)])
    known = [row for row in rows if not row[0].endswith("9")]
    assert {behavior_text(titled, action, value, book[item]) for item, action, value in known} <= set(short)
    counting = CountingEncoder(lower)

    def fill_new(*spans: Span) -> FillResult:
        with world.connect() as connection:
            own = span_texts(connection, PLAIN, spans)
        return fill(world, counting, own, wait=False)

    assert fill_new(Span("u1", 5, 9)).computed == len(texts)
    assert fill_new(Span("u1", 5, 9)) == FillResult(len(texts), 0)
    assert fill_new(Span("nobody", 5, 9)) == FillResult(0, 0)
    fill_new(*(Span("u1", 5 * n, 5 * n + 4) for n in range(5)), Span("u2", 0, 4))
    assert len(counting.seen) == len(set(counting.seen))


def test_what_another_filler_has_claimed_is_counted_as_left(store: Engine, lower: LowerLayers) -> None:
    bank.register(store, lower.recipe, lower.width)
    bank.Claims(store, lower.recipe, lower.width, "another").take(lower.recipe.keys(TEXTS[:2]))
    assert fill(store, lower, TEXTS[:5], wait=False) == FillResult(5, 3, 2)
    with store.begin() as connection:
        connection.execute(update(bank_vectors).where(bank_vectors.c.vector.is_(None)).values(until=0.0))
    assert fill(store, lower, TEXTS[:5], wait=False) == FillResult(5, 2, 0)


def test_marks_say_which_behaviours_are_new_to_a_bank(world: Engine, lower: LowerLayers) -> None:
    def pages(most: int, name: str = lower.recipe.id) -> list[Span]:
        found: list[Span] = []
        after: str | None = ""
        while after is not None:
            with world.connect() as connection:
                page = read_page(connection, name, after, most)
            found, after = found + page.spans, page.after
        return found

    every = pages(1000)
    assert every == sorted(Span(f"u{n}", 0, 24) for n in range(30)) == pages(7) == pages(30) == pages(1)
    done = [every[0], every[3]._replace(last=9), every[29]]
    bank.register(world, lower.recipe, lower.width)
    with world.begin() as connection:
        write_watermarks(connection, lower.recipe.id, done)
    assert pages(4) == [*every[1:3], every[3]._replace(first=10), *every[4:29]]
    assert pages(4, "another") == every
    bank.remove(world, lower.recipe.id)
    assert pages(4) == every


@pytest.mark.parametrize("most", [1, 4, 5, 6, 11, 12, 100])
def test_spans_are_taken_in_pieces(most: int) -> None:
    left = [Span("a", 0, 4), Span("b", 7, 7), Span("c", 2, 6)]
    seen: list[tuple[str, int]] = []
    sizes = []
    while left:
        some, left = split_spans(left, most)
        sizes.append(sum(one.size for one in some))
        seen += [(one.user_id, seq) for one in some for seq in range(one.first, one.last + 1)]
    assert seen == [("a", n) for n in range(5)] + [("b", 7)] + [("c", n) for n in range(2, 7)]
    assert sizes[:-1] == [most] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= most


def test_collection_removes_what_nothing_leads_to(world: Engine, llm: Path, lower: LowerLayers) -> None:
    other = open_lower_layers(llm, recipe_of(llm, 3))
    with world.connect() as connection:
        texts = store_texts(connection, PLAIN).texts
    for own in (lower, other):
        fill(world, own, [*texts, "a text of no behaviour"])
    assert collect_garbage(world) == {lower.recipe.id: 1, other.recipe.id: 1}
    with world.begin() as connection:
        connection.execute(delete(behaviors).where(behaviors.c.item_id == "i3"))
        connection.execute(delete(items).where(items.c.item_id == "i3"))
    with world.connect() as connection:
        left = store_texts(connection, PLAIN).texts
    assert collect_garbage(world, [lower.recipe.id]) == {
        lower.recipe.id: len(texts) - len(left),
        other.recipe.id: len(texts),
    }
    assert set(read_held(world, lower.recipe, texts)) == set(left)
    with world.begin() as connection:
        insert_new(connection, items, [item_row(Item(item_id="i3", title="Item 3"))])
    with world.connect() as connection:
        counting = CountingEncoder(lower)
        fill(world, counting, store_texts(connection, PLAIN).texts)
    assert counting.seen == ["Item 3"]


def test_recipes_are_kept_with_their_bank(store: Engine, lower: LowerLayers) -> None:
    fill(store, lower, TEXTS[:1])
    with store.connect() as connection:
        assert bank.read_recipes(connection) == {lower.recipe.id: lower.recipe}
        (text,) = connection.scalars(select(banks.c.recipe))
    assert msgspec.json.decode(text)["template"]["behavior"] == PLAIN.behavior
