"""The fusion stage keeps the bank filled: with every behaviour, whatever crashes, and out of messages' way."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sqlalchemy import Engine

from fusion.encoders.split_llm import LowerLayers
from streams.kafka.clients import KafkaSettings
from streams.observability.health import Health
from streams.observability.metrics import Metrics
from streams.resolve import bank_fill as filling
from streams.resolve.bank_fill import FillPass
from streams.settings.schema import AgentSettings, BankSettings
from streams.stages.fusion import bank_fill as module
from streams.stages.fusion.stage import FusionStage
from streams.stages.stage import Context
from streams.store.engine import open_store
from tests.support.bank_world import (
    EACH,
    USERS,
    add_behaviors,
    computed,
    content,
    fill_store,
    is_full,
    texts_of,
    vectors,
    watermarks,
)
from tests.support.fusion_world import (
    CrashError,
    context_of,
    done,
    latest,
    learn,
    of_users,
    outbox_rows,
    publish,
    until,
    working,
)

pytestmark = pytest.mark.model


@pytest.fixture
def context(kafka: KafkaSettings, engine: Engine, llm: Path, encoder_folder: Path) -> Context:
    return with_bank(context_of(kafka, engine), llm)


def with_bank(context: Context, llm: Path, **agent: Any) -> Context:
    bank, own = BankSettings(llm=str(llm), cut=2), AgentSettings(**agent)
    return dataclasses.replace(context, settings=msgspec.structs.replace(context.settings, bank=bank, agent=own))


class Slow:
    """The lower layers, waiting until they may go on."""

    def __init__(self, lower: LowerLayers) -> None:
        self.recipe, self.width, self.batch_texts, self._lower = lower.recipe, lower.width, lower.batch_texts, lower
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, texts: Sequence[str], advance: Callable[[int], None], /) -> np.ndarray:
        self.begun.set()
        self.go.wait()
        return self._lower(texts, advance)


class Dies:
    """The lower layers in a process that ends in a later call."""

    def __init__(self, lower: LowerLayers, calls: int) -> None:
        self.recipe, self.width, self.batch_texts = lower.recipe, lower.width, lower.batch_texts
        self._lower, self._left = lower, calls

    def __call__(self, texts: Sequence[str], advance: Callable[[int], None], /) -> np.ndarray:
        self._left -= 1
        if self._left < 0:
            raise CrashError
        return self._lower(texts, advance)


def test_behaviours_without_partitions_get_vectors_as_they_come_and_embedded_rows_agree(
    engine: Engine, lower: LowerLayers, context: Context, tmp_path: Path
) -> None:
    fill_store(engine)

    async def go() -> None:
        async with working(context):
            await until(lambda: is_full(engine, lower.recipe))
            before = computed(engine)
            assert before == len(texts_of(engine))
            add_behaviors(engine, "u2", EACH, 2.2, 3.3)  # two new texts of items that are known
            add_behaviors(engine, "new", 0, 2.2)  # no new text
            await until(lambda: is_full(engine, lower.recipe))
            assert computed(engine) == before + 2
            await until(lambda: context.metrics.registry.get_sample_value("interestream_bank_behind_seconds") == 0)
            held = sum(mark + 1 for mark in watermarks(engine, lower.recipe).values())
            assert context.metrics.registry.get_sample_value("interestream_bank_behaviors_total") == held

    asyncio.run(go())
    embedded = open_store(f"sqlite:///{tmp_path / 'embedded.db'}")
    fill_store(embedded)
    add_behaviors(embedded, "u2", EACH, 2.2, 3.3)
    add_behaviors(embedded, "new", 0, 2.2)
    fill_pass = FillPass(embedded, lower, wait=True)
    while not fill_pass.is_done:
        fill_pass.step()
    assert content(engine, lower.recipe) == content(embedded, lower.recipe)


def test_two_workers_share_the_users(engine: Engine, lower: LowerLayers, context: Context) -> None:
    other = dataclasses.replace(context, metrics=Metrics(), health=Health())

    async def go() -> None:
        async with working(context) as one, working(other) as two:
            await until(lambda: all(stage._window and len(stage._window.partitions) == 1 for stage in (one, two)))
            fill_store(engine)
            add_behaviors(engine, "u1", EACH, 2.2)
            await until(lambda: is_full(engine, lower.recipe))

    asyncio.run(go())
    assert computed(engine) == len(texts_of(engine))


def test_a_slow_llm_keeps_no_message_waiting_and_no_worker_from_stopping(
    engine: Engine, lower: LowerLayers, context: Context, llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, every = Slow(lower), of_users(USERS, 2)
    monkeypatch.setattr(module, "open_bank", lambda _: slow)
    context = with_bank(context, llm, drain_s=4.0)
    fill_store(engine)
    learn(engine, every)

    async def go() -> None:
        async with working(context):
            await until(slow.begun.is_set)
            await publish(context, every)
            await until(lambda: done(context) == len(every) and outbox_rows(engine) == [])
            assert len(await latest(context)) == USERS
            # offsets are committed, and health told so, after the outbox is empty
            await until(lambda: context.health.reasons_not_ready(time.monotonic() + 3600) == [])
            await until(lambda: context.health.stuck_for(time.monotonic() + 3600) == 0)
            assert not any(vectors(engine, lower.recipe).values())
            behind = [context.metrics.registry.get_sample_value("interestream_bank_behind_seconds") for _ in range(2)]
            assert 0 < behind[0] < behind[1]
            began = time.monotonic()
        assert time.monotonic() - began < 6.0
        slow.go.set()
        await until(lambda: vectors(engine, lower.recipe) == {})  # what was claimed is given back

    try:
        asyncio.run(go())
    finally:
        slow.go.set()


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_crash_while_filling_is_made_up_for(
    engine: Engine, lower: LowerLayers, context: Context, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    monkeypatch.setattr(filling, "BEHAVIORS", 20)
    fill_store(engine)

    async def go() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(module, "open_bank", lambda _: Dies(lower, calls))
            with pytest.raises(CrashError):
                await FusionStage(context).run(asyncio.Event())
        assert not is_full(engine, lower.recipe)
        assert (computed(engine) > 0) == (calls > 0)
        async with working(context):
            await until(lambda: is_full(engine, lower.recipe))

    asyncio.run(go())
    assert computed(engine) == len(texts_of(engine))


def test_a_crash_between_vectors_and_marks_costs_no_forward_pass(
    engine: Engine, lower: LowerLayers, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_store(engine)

    def ends(*_: object) -> None:
        raise CrashError

    async def go() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(filling, "write_watermarks", ends)
            with pytest.raises(CrashError):
                await FusionStage(context).run(asyncio.Event())
        assert watermarks(engine, lower.recipe) == {}
        before = computed(engine)
        assert before > 0
        async with working(context):
            await until(lambda: is_full(engine, lower.recipe))
        assert computed(engine) == len(texts_of(engine))

    asyncio.run(go())
