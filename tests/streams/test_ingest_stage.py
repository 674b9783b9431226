"""The ingest stage on a real broker: the store is what the embedded replay makes of the same log, whatever happens."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select
from stage_rig import (
    announced, behaviors_of, content, drained, in_loop, make_context, make_topics, message, produce, running,
)  # fmt: skip

from streams.kafka import source_of
from streams.policy import Policy
from streams.positions import positions_of
from streams.replay import replay
from streams.rows import BehaviorLog
from streams.store import open_store
from streams.tables import outbox


@pytest.fixture
def engine(url):
    engine = open_store(url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def embedded(sample_log, tmp_path_factory):
    """What the embedded replay makes of ML-100K."""
    engine = open_store(f"sqlite:///{tmp_path_factory.mktemp('embedded') / 'store.db'}")
    replayed = replay(engine, BehaviorLog(sample_log / "ml-100k.inter", {}), Policy())
    yield content(engine), replayed
    engine.dispose()


@pytest.fixture(scope="session")
def log(sample_log):
    return behaviors_of(sample_log / "ml-100k.inter")


@in_loop
async def test_the_store_equals_the_embedded_replay(kafka, engine, log, embedded):
    rows, replayed = embedded
    topics = make_topics(kafka)
    await produce(kafka, topics.behaviors, map(message, log))
    context = make_context(engine, kafka)
    async with running(context):
        await drained(engine, kafka)
    assert content(engine) == rows
    positions = positions_of(engine, source_of(topics.behaviors)).values()
    for name in ("accepted", "late", "duplicates", "rejected"):
        assert sum(getattr(one, name) for one in positions) == getattr(replayed.position, name)
    assert max(one.watermark for one in positions) == replayed.position.watermark
    found = await announced(kafka)
    assert len(found) == len(rows["partitions"])
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(outbox)) == 0
