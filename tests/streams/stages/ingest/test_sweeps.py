"""Sweeps on a real broker: what event time has closed is closed, without a further behaviour of its user."""

from __future__ import annotations

from contextlib import AsyncExitStack

import msgspec
import pytest

from interest.store.tables import partitions
from interest.types import Partition
from streams.files.rows import BehaviorLog
from streams.replay.embedded import replay
from streams.store.engine import open_store
from streams.store.tables import outbox
from streams.ubsp.policy import Policy, Scenes, Span
from tests.support.stage_rig import (
    GOOD,
    announced,
    content,
    count,
    drained,
    in_loop,
    make_context,
    make_topics,
    message,
    produce,
    read_all,
    running,
    until,
)


@pytest.mark.parametrize("workers", [1, 2])
@in_loop
async def test_a_drained_log_is_swept_as_the_embedded_replay_sweeps_it(kafka, engine, log_file, log, tmp_path, workers):
    policy = {"count": 40, "gap": "1d", "span": "month"}
    inner = open_store(f"sqlite:///{tmp_path / 'embedded.db'}")
    replay(inner, BehaviorLog(log_file, {}), Policy(count=40, gap_s=86400.0, span=Span.MONTH))
    wanted = content(inner)
    inner.dispose()
    topics = make_topics(kafka)
    async with AsyncExitStack() as stack:
        for _ in range(workers):
            await stack.enter_async_context(running(make_context(engine, kafka, **policy, idle_s=1.0, batch=4000)))
        await produce(kafka, topics.behaviors, map(message, log))
        await drained(engine, kafka)
        await until(lambda: count(engine, partitions) == len(wanted["partitions"]), "swept")
    assert content(engine) == wanted
    assert len(await announced(kafka)) == len(wanted["partitions"])
    assert count(engine, outbox) == 0


@in_loop
async def test_users_that_only_the_store_knows_are_swept_too(kafka, engine):
    """After a restart memory is empty: what was open then is closed by time all the same."""
    topics = make_topics(kafka)
    people = [msgspec.structs.replace(GOOD, user_id=f"u{number}") for number in range(50)]
    async with running(make_context(engine, kafka, count=None, gap="1h")):
        await produce(kafka, topics.behaviors, map(message, people))
        await drained(engine, kafka)
    assert count(engine, partitions) == 0
    late = msgspec.structs.replace(GOOD, user_id="later", at=GOOD.at + 7200)
    async with running(make_context(engine, kafka, count=None, gap="1h", idle_s=1.0)):
        await produce(kafka, topics.behaviors, [message(late)])
        await until(lambda: count(engine, partitions) == 50)
    assert len(await announced(kafka)) == 50


@in_loop
async def test_scenes_kept_apart_are_partitioned_live_as_embedded_and_announced_so(kafka, engine, log, tmp_path):
    scenes = [msgspec.structs.replace(one, scene=(None, "home", "shop")[int(one.item_id) % 3]) for one in log[:3000]]
    file = tmp_path / "scenes.jsonl"
    file.write_bytes(b"\n".join(map(msgspec.json.encode, scenes)))
    inner = open_store(f"sqlite:///{tmp_path / 'embedded.db'}")
    replay(inner, BehaviorLog(file, {}), Policy(count=8, gap_s=86400.0, scenes=Scenes.APART))
    wanted = content(inner)
    inner.dispose()
    topics = make_topics(kafka)
    settings = {"count": 8, "gap": "1d", "scenes": "apart", "idle_s": 1.0, "batch": 500, "memory_mb": 1}
    for part in (scenes[:1000], scenes[1000:]):  # the second worker restores what the first one left open
        async with running(make_context(engine, kafka, **settings)):
            await produce(kafka, topics.behaviors, map(message, part))
            await drained(engine, kafka)
            if part[-1] is scenes[-1]:
                await until(lambda: count(engine, partitions) == len(wanted["partitions"]), "swept")
    assert content(engine) == wanted
    told = [msgspec.json.decode(one.value, type=Partition) for one in await read_all(kafka, topics.partitions)]
    rows = {(one.user_id, one.generation, one.index): one for one in told}
    assert [msgspec.structs.astuple(rows[row[:3]])[:7] for row in wanted["partitions"]] == [
        (row[0], row[2], row[1], *row[3:7]) for row in wanted["partitions"]
    ]
    assert [(one.scene, one.previous, one.members) for _, one in sorted(rows.items())] == [
        row[-3:] for row in wanted["partitions"]
    ]
