"""Another artifact while the fusion stage works: every user is represented and announced again, whatever happens."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from fusion.encoders.sentence import open_encoder
from fusion.interests.pooled_rows import VectorSource, pooled_id
from fusion.serving.user_vectors import represent
from fusion.training.artifact import load_artifact
from streams.kafka.clients import KafkaSettings
from streams.kafka.messages import RepresentationUpdate
from streams.resolve.activation import activate, activate_pooled
from streams.resolve.encoder import encoder_folder
from streams.stages.announce import Announcer
from streams.stages.fusion.republish import plan_republishing
from streams.stages.fusion.stage import FusionStage
from tests.support.fusion_world import (
    EVERY,
    CrashError,
    announced,
    content,
    context_of,
    done,
    fuse_all,
    latest,
    learn,
    make_artifact,
    newest_rows,
    of_users,
    outbox_rows,
    publish,
    told,
    until,
    update,
    working,
)
from tests.support.rounding import assert_alike

pytestmark = pytest.mark.model


def test_activation_switches_and_publishes_every_user_again(
    engine: Engine, kafka: KafkaSettings, embedded: Engine, view: VectorSource, tmp_path: Path
) -> None:
    context = context_of(kafka, engine, batch=4)
    first = make_artifact(tmp_path / "first", view, seed=1)
    second = make_artifact(tmp_path / "second", view, seed=2)
    new = [update(f"u{user}", 4) for user in range(9)]
    learn(engine, EVERY)

    async def go() -> list[dict[str, RepresentationUpdate]]:
        seen = []
        await publish(context, EVERY)
        async with working(context):
            await until(lambda: done(context) == len(EVERY))
            for step in (tmp_path / "first", tmp_path / "second", None):
                number = activate_pooled(engine)[0].number if step is None else activate(engine, step)[0].number
                await until(lambda number=number: published(context, number))
                seen.append(await latest(context))
                if step == tmp_path / "first":
                    learn(engine, new)
                    await publish(context, new)
                    await until(lambda: done(context) == len(EVERY) + len(new))
                    seen.append(await latest(context))
        return seen

    by_first, with_new, by_second, pooled = asyncio.run(go())
    assert {(one.artifact, one.index) for one in by_first.values()} == {(first, 3)}
    assert {(one.artifact, one.index) for one in with_new.values()} == {(first, 4)}
    assert len(by_first) == len(with_new) == len(by_second) == len(pooled) == 9
    learn(embedded, new)
    fuse_all(embedded, open_encoder(Path(view_folder(context)), device="cpu"))
    for folder in ("first", "second"):
        represent(embedded, load_artifact(tmp_path / folder))
    assert_alike(told(with_new), told(newest_rows(embedded, first)))
    assert_alike(told(by_second), told(newest_rows(embedded, second)))
    assert_alike(told(pooled), told(newest_rows(embedded, pooled_id(*view))))
    assert_alike(content(engine), content(embedded))


def published(context: Any, number: int) -> bool:
    """Whether every Kafka partition has been published again by that activation, and all of it was sent."""
    topic = context.topics.representations
    return all(
        plan_republishing(context.engine, topic, one, 2, number) is None for one in range(2)
    ) and not outbox_rows(context.engine)


def view_folder(context: Any) -> Path:
    return encoder_folder(context.settings.fusion.encoder)


def test_publishing_again_goes_on_after_a_crash_and_is_not_begun_anew(
    engine: Engine,
    kafka: KafkaSettings,
    embedded: Engine,
    view: VectorSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though `train` has written the rows already: what counts is what was announced."""
    context = context_of(kafka, engine, batch=2)
    artifact = make_artifact(tmp_path / "one", view)
    learn(engine, EVERY)
    fuse_all(engine, open_encoder(view_folder(context), device="cpu"))
    represent(engine, load_artifact(tmp_path / "one"))
    activate(engine, tmp_path / "one")
    send = Announcer.send
    said: list[str] = []

    def mortal(lives: int) -> Any:
        async def sends(self: Announcer, announcements: list[Any]) -> None:
            nonlocal lives
            if announcements:
                lives -= 1
                if not lives:
                    raise CrashError
            await send(self, announcements)
            said.extend(one.user_id for one in announcements)

        return sends

    async def go() -> dict[str, RepresentationUpdate]:
        for lives in (1, 2, 2):
            with monkeypatch.context() as patch:
                patch.setattr(Announcer, "send", mortal(lives))
                with pytest.raises(CrashError):
                    await FusionStage(context).run(asyncio.Event())
        async with working(context):
            await until(lambda: published(context, 1))
        once = await announced(context)
        async with working(context):
            await until(lambda: context.health.started)
            await asyncio.sleep(1.0)
        assert sorted(await announced(context)) == sorted(once)
        assert len(once) == 9  # each user's message was sent exactly once: no crash was after the broker's answer
        return await latest(context)

    found = asyncio.run(go())
    represent(embedded, load_artifact(tmp_path / "one"))
    assert_alike(told(found), told(newest_rows(embedded, artifact)))
    assert_alike(content(engine), content(embedded))


def test_an_artifact_that_cannot_be_loaded_is_reported_and_the_old_one_stays(
    engine: Engine, kafka: KafkaSettings, view: VectorSource, tmp_path: Path
) -> None:
    context = context_of(kafka, engine)
    old = make_artifact(tmp_path / "old", view, seed=1)
    make_artifact(tmp_path / "new", view, seed=2)
    some = of_users(2, 1)
    learn(engine, some)
    fuse_all(engine, open_encoder(view_folder(context), device="cpu"))
    activate(engine, tmp_path / "old")
    activate(engine, tmp_path / "new")
    weights = tmp_path / "new" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"nonsense")

    async def go() -> None:
        async with working(context):
            await until(lambda: "artifact" in context.health.down)
            assert "put it into that folder on every machine" in context.health.down["artifact"]
            await publish(context, some)
            await until(lambda: done(context) == 2)
            assert {one.artifact for one in (await latest(context)).values()} == {old}
            weights.write_bytes(whole)
            await until(lambda: "artifact" not in context.health.down)
            await until(lambda: published(context, 2))
            assert {one.artifact for one in (await latest(context)).values()} == {load_artifact(tmp_path / "new").id}

    asyncio.run(go())


def test_users_that_the_artifact_knows_nothing_of_are_represented_by_the_pool(
    engine: Engine, kafka: KafkaSettings, view: VectorSource, tmp_path: Path
) -> None:
    context = context_of(kafka, engine)
    artifact = make_artifact(tmp_path / "one", view)
    some = [update("ann", 0), update("bob", 0, "json-2")]
    learn(engine, some)
    fuse_all(engine, open_encoder(view_folder(context), device="cpu"))
    activate(engine, tmp_path / "one")

    async def go() -> dict[str, RepresentationUpdate]:
        await publish(context, some)
        async with working(context):
            await until(lambda: done(context) == 2 and published(context, 1))
        return await latest(context)

    found = asyncio.run(go())
    assert found["ann"].artifact == artifact
    assert found["bob"].artifact == pooled_id(view.encoder, "json-2")
