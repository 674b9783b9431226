"""Behaviours in every form in which producers put them on the wire: compressed with any codec, in transactions that are
committed or aborted."""

from __future__ import annotations

import asyncio
import sys

import msgspec
import pytest
from sqlalchemy import select

from interest.store.tables import behaviors
from streams.kafka.clients import make_producer
from streams.kafka.codecs import CODECS, CodecError, check_codecs
from tests.support.stage_rig import (
    GOOD,
    content,
    drained,
    in_loop,
    make_context,
    make_topics,
    message,
    produce,
    running,
)


def behavior_of(user: str, item: str) -> tuple[bytes, bytes]:
    return message(msgspec.structs.replace(GOOD, user_id=user, item_id=item))


@in_loop
async def test_batches_of_every_codec_are_read(store, kafka):
    topics = make_topics(kafka)
    for codec in CODECS:
        sent = [behavior_of(codec, f"film{number}") for number in range(200)]
        await produce(kafka, topics.behaviors, sent, compression_type=codec)
    async with running(make_context(store, kafka)):
        await drained(store, kafka)
    rows = content(store)["behaviors"]
    assert {codec: sum(row[0] == codec for row in rows) for codec in CODECS} == dict.fromkeys(CODECS, 200)


@in_loop
async def test_an_aborted_transaction_is_not_read_and_its_neighbours_are(store, kafka):
    """Markers and what was aborted take offsets: the stage must pass them, or its lag would never be 0."""
    topics = make_topics(kafka)
    producer = make_producer(kafka, transactional_id=f"{kafka.prefix}shop")
    await producer.start()
    for item, ends_well in (("first", True), ("aborted", False), ("last", True), ("aborted too", False)):
        await producer.begin_transaction()
        key, value = behavior_of("ann", item)
        await producer.send_and_wait(topics.behaviors, value, key=key)
        await (producer.commit_transaction() if ends_well else producer.abort_transaction())
    await producer.stop()
    context = make_context(store, kafka)
    async with running(context):
        await drained(store, kafka)  # the store stands behind the last marker
        await asyncio.sleep(0)
    with store.connect() as connection:
        assert connection.scalars(select(behaviors.c.item_id).order_by(behaviors.c.seq)).all() == ["first", "last"]


@in_loop
async def test_uncommitted_reading_is_a_setting(store, kafka):
    topics = make_topics(kafka)
    producer = make_producer(kafka, transactional_id=f"{kafka.prefix}shop")
    await producer.start()
    await producer.begin_transaction()
    key, value = behavior_of("ann", "aborted")
    await producer.send_and_wait(topics.behaviors, value, key=key)
    await producer.abort_transaction()
    await producer.stop()
    async with running(make_context(store, msgspec.structs.replace(kafka, isolation="read_uncommitted"))):
        await drained(store, kafka)
    assert [row[2] for row in content(store)["behaviors"]] == ["aborted"]


def test_a_missing_codec_is_named_with_its_package(monkeypatch):
    check_codecs()  # all four are installed
    monkeypatch.setitem(sys.modules, "cramjam", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(CodecError, match=r"snappy \(cramjam\).*zstd \(cramjam, zstandard\).*`pip install cramjam zst"):
        check_codecs()
