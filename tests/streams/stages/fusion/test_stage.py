"""The fusion stage on a real broker with the real text encoder: rows as the embedded fuse makes them, whatever the
order, the batches and the crashes; announcements of exactly what is stored.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, select

from fusion.encoders.item_text import ITEM_TEMPLATE, catalogue_text, text_key
from fusion.encoders.sentence import open_encoder
from fusion.features.match.item_vectors import stored_vectors
from fusion.interests.pooled_rows import VectorSource, pooled_id
from fusion.tables import vectors
from interest.errors import InputError
from interest.store import counters
from interest.store.sql import writing
from interest.types import Item
from streams.kafka.clients import KafkaSettings
from streams.kafka.messages import RepresentationUpdate
from streams.kafka.topics import dead_of
from streams.resolve.encoder import encoder_folder
from streams.stages.announce import Announcer
from streams.stages.fusion import stage as module
from streams.stages.fusion.stage import FusionStage
from streams.stages.ingest.catalogue import apply
from streams.store import outbox
from streams.store.forget import forget
from tests.support.fusion_world import (
    EVERY,
    CrashError,
    announced,
    content,
    context_of,
    done,
    latest,
    learn,
    newest_rows,
    of_users,
    outbox_rows,
    partition_of,
    publish,
    told,
    until,
    update,
    working,
)

pytestmark = pytest.mark.model


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_rows_and_announcements_are_those_of_the_embedded_fuse_in_any_order(
    engine: Engine, kafka: KafkaSettings, embedded: Engine, view: VectorSource, batch: int
) -> None:
    context = context_of(kafka, engine, batch=batch)
    shuffled = random.Random(batch).sample(EVERY, len(EVERY))
    learn(engine, EVERY)

    async def go() -> dict[str, RepresentationUpdate]:
        await publish(context, shuffled + shuffled[:5])  # some come twice
        async with working(context):
            await until(lambda: done(context) == len(EVERY) + 5)
        return await latest(context)

    found = asyncio.run(go())
    assert content(engine) == content(embedded)
    assert told(found) == told(newest_rows(embedded, pooled_id(*view)))
    assert outbox_rows(engine) == []


def test_interests_that_come_late_have_the_newer_partitions_pooled_and_announced_again(
    engine: Engine, kafka: KafkaSettings, embedded: Engine, view: VectorSource
) -> None:
    context = context_of(kafka, engine)
    early = [one for one in EVERY if one.index != 1]
    late = [one for one in EVERY if one.index == 1]

    async def go() -> tuple[dict[str, RepresentationUpdate], dict[str, RepresentationUpdate]]:
        async with working(context):
            learn(engine, early)
            await publish(context, early)
            await until(lambda: done(context) == len(early))
            before = await latest(context)
            learn(engine, late)
            await publish(context, late)
            await until(lambda: done(context) == len(EVERY))
        return before, await latest(context)

    before, after = asyncio.run(go())
    assert {one.index for one in before.values()} == {one.index for one in after.values()} == {3}
    assert all(after[user].vector != before[user].vector for user in before)
    assert content(engine) == content(embedded)
    assert told(after) == told(newest_rows(embedded, pooled_id(*view)))


def test_a_crash_between_commit_and_announcement_loses_nothing(
    engine: Engine, kafka: KafkaSettings, embedded: Engine, view: VectorSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(kafka, engine, batch=10)
    learn(engine, EVERY)
    lives = iter(range(2))

    async def ends(self: Announcer, announcements: list[Any]) -> None:
        if announcements:
            raise CrashError

    async def go() -> dict[str, RepresentationUpdate]:
        await publish(context, EVERY)
        for _ in lives:
            with monkeypatch.context() as patch:
                patch.setattr(Announcer, "send", ends)
                with pytest.raises(CrashError):
                    await FusionStage(context).run(asyncio.Event())
            assert await announced(context) == []
            assert len(outbox_rows(engine)) >= 1
        async with working(context):
            await until(lambda: done(context) == len(EVERY))
        return await latest(context)

    found = asyncio.run(go())
    assert content(engine) == content(embedded)
    assert told(found) == told(newest_rows(embedded, pooled_id(*view)))
    assert outbox_rows(engine) == []


def test_what_a_worker_left_unsaid_is_said_though_no_message_comes_again(
    engine: Engine, kafka: KafkaSettings, view: VectorSource
) -> None:
    """The message was acknowledged, its announcement is in the outbox: left there by hand, as a crash would."""
    context = context_of(kafka, engine)
    left = outbox.Announcement(
        topic=context.topics.representations, partition=1, offset=3, user_id="gone", message=b"{}"
    )
    with writing(engine) as connection:
        outbox.add(connection, [left])

    async def go() -> list[tuple[int, bytes, bytes | None]]:
        async with working(context):
            await until(lambda: outbox_rows(engine) == [])
        return await announced(context)

    assert asyncio.run(go()) == [(1, b"gone", b"{}")]


def test_announcements_of_a_worker_that_lost_its_partitions_are_said_first(
    engine: Engine, kafka: KafkaSettings, view: VectorSource
) -> None:
    context = context_of(kafka, engine)
    mine = update("u0", 0)
    learn(engine, [mine])

    async def go() -> list[tuple[int, bytes, bytes | None]]:
        async with working(context) as stage:
            await until(lambda: context.health.started)
            topic, partition = context.topics.representations, partition_of("u0")
            with writing(engine) as connection:  # the place that the message is about to take
                one = outbox.Announcement(topic=topic, partition=partition, offset=0, user_id="u0", message=b"{}")
                outbox.add(connection, [one])
            await publish(context, [mine])
            await until(lambda: done(context) == 1)
            assert stage.name == "fusion"
        return await announced(context)

    first, second = asyncio.run(go())
    assert first[2] == b"{}"
    assert msgspec.json.decode(second[2] or b"", type=RepresentationUpdate).index == 0


def test_a_forgotten_user_is_passed_over_and_counted(engine: Engine, kafka: KafkaSettings, view: VectorSource) -> None:
    context = context_of(kafka, engine)
    some = of_users(3, 2)
    learn(engine, some)
    forget(engine, "u1")

    async def go() -> dict[str, RepresentationUpdate]:
        await publish(context, some)
        async with working(context):
            await until(lambda: done(context) == len(some))
        return await latest(context)

    assert asyncio.run(go()).keys() == {"u0", "u2"}
    assert {row[0] for rows in content(engine).values() for row in rows} == {"u0", "u2"}
    assert context.metrics.skipped.labels("fusion")._value.get() == 2


def test_a_text_that_changes_while_it_is_encoded_is_encoded_again(
    engine: Engine, kafka: KafkaSettings, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a user who is forgotten meanwhile leaves nothing."""
    context = context_of(kafka, engine)
    some = [update("ann", 0), update("bob", 0)]
    better = update("bob", 0, summary="Likes opera.")
    learn(engine, some)
    meanwhile = iter([True])

    def slow(encoder: Any, found: Any) -> Any:
        made = encode(encoder, found)
        if next(meanwhile, False):
            learn(engine, [better])
            forget(engine, "ann")
        return made

    encode = module.encode_interests
    monkeypatch.setattr(module, "encode_interests", slow)

    async def go() -> dict[str, RepresentationUpdate]:
        await publish(context, some)
        async with working(context):
            await until(lambda: done(context) == 2)
        return await latest(context)

    assert asyncio.run(go()).keys() == {"bob"}
    with engine.connect() as connection:
        row = connection.execute(select(vectors)).one()
    vector = open_encoder(encoder_folder, device="cpu")([better.summary])[0]
    assert (row.user_id, row.summary) == ("bob", vector.astype("<f2").tobytes())


def test_a_message_that_is_no_update_becomes_a_dead_letter(
    engine: Engine, kafka: KafkaSettings, view: VectorSource
) -> None:
    context = context_of(kafka, engine)
    good = update("u0", 0)
    learn(engine, [good])

    async def go() -> list[tuple[int, bytes, bytes | None]]:
        await publish(context, [b"no JSON", msgspec.json.encode(good), good])
        async with working(context):
            await until(lambda: done(context) == 3)
        assert (await latest(context)).keys() == {"u0"}
        return await announced(context, dead_of(context.topics.updates))

    letters = asyncio.run(go())  # in one Kafka partition or in two
    held = sorted(value or b"" for _, _, value in letters)
    assert held == sorted([b"no JSON", msgspec.json.encode(good)])  # the second: another key


def test_a_machine_without_an_encoder_is_refused_with_the_remedy(
    store: Engine, kafka: KafkaSettings, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"interestream fetch encoder.*INTERESTREAM_FUSION_ENCODER"):
        FusionStage(context_of(kafka, store, encoder=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="INTERESTREAM_FUSION_HALF_LIFE"):
        FusionStage(context_of(kafka, store, half_life=-1.0))


def test_items_that_come_or_change_have_vectors_of_their_texts_as_by_the_embedded_fuse(
    engine: Engine, kafka: KafkaSettings, view: VectorSource
) -> None:
    context, encoder = context_of(kafka, engine), open_encoder(encoder_folder(None))
    heat = Item(item_id="new1", title="Heat", categories=("Crime",))
    ronin = Item(item_id="new2", title="Ronin", categories=("Thriller",))

    def encoded(*found: Item) -> bool:
        texts = [catalogue_text(ITEM_TEMPLATE, one) for one in found]
        with engine.connect() as connection:
            held = stored_vectors(connection, encoder.id, [text_key(text) for text in texts])
        wanted = dict(zip(map(text_key, texts), encoder(texts).astype("<f2"), strict=True))
        return {key: own.tobytes() for key, own in held.items()} == {key: own.tobytes() for key, own in wanted.items()}

    def put(*found: Item) -> None:
        with writing(engine) as connection:
            apply(connection, {one.item_id: one for one in found}, {})

    async def go() -> None:
        async with working(context):
            put(heat, ronin)
            await until(lambda: encoded(heat, ronin))
            changed = msgspec.structs.replace(ronin, title="Ronin (1998)")
            put(changed)
            await until(lambda: encoded(changed))

    asyncio.run(go())
    with engine.connect() as connection:
        assert counters.read(connection, counters.ITEM_VECTORS) >= 2
