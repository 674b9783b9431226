"""The ingest stage on a real broker: the store is what the embedded replay makes of the same log, whatever happens."""

from __future__ import annotations

import asyncio
import time

import msgspec
from sqlalchemy import select

from interest.store.sql import read_items, read_users, writing
from interest.store.tables import behaviors, offers, partitions
from interest.types import OFFERED, Item, User
from streams.files.rows import BehaviorLog
from streams.kafka.clients import MAX_DEAD, make_producer
from streams.kafka.dead_letter import dead_letter, read_letter
from streams.replay.embedded import replay
from streams.stages.ingest.offsets import positions_of
from streams.stages.ingest.sweeps import owner
from streams.store import outbox as outbox_of
from streams.store.engine import open_store
from streams.store.forget import forget
from streams.store.outbox import Announcement
from streams.store.tables import outbox, source_of
from streams.ubsp.ingest import Ingest, Move
from streams.ubsp.policy import Policy
from tests.support.stage_rig import (
    GOOD,
    announced,
    content,
    count,
    drained,
    in_loop,
    letters,
    make_context,
    make_topics,
    message,
    produce,
    read_all,
    running,
    until,
)


def value(context, name, **labels) -> float:
    """A metric's value; a counter's name has _total behind it."""
    registry = context.metrics.registry
    full = f"interestream_{name}"
    return next(
        found
        for found in (registry.get_sample_value(full, labels), registry.get_sample_value(f"{full}_total", labels))
        if found is not None
    )


def places(stage) -> list:
    assignment = stage._consumer.assignment
    return [] if assignment is None else [one for one in assignment.partitions if one.topic.endswith("behaviors")]


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
    assert count(engine, outbox) == 0


@in_loop
async def test_a_restart_in_the_middle_changes_nothing(kafka, engine, log, embedded):
    topics = make_topics(kafka)
    context = make_context(engine, kafka, batch=3000)
    half = len(log) // 2
    await produce(kafka, topics.behaviors, map(message, log[:half]))
    async with running(context):
        await until(lambda: count(engine, behaviors) > 5000)  # stopped while it is at work
    stopped = content(engine)
    assert count(engine, outbox) == 0
    read = sum(one.offset for one in positions_of(engine, source_of(topics.behaviors)).values())
    assert read == len(stopped["behaviors"])  # a clean stop leaves nothing to be done again
    await produce(kafka, topics.behaviors, map(message, log[half:]))
    async with running(make_context(engine, kafka)):
        await drained(engine, kafka)
    assert content(engine) == embedded[0]
    assert len(await announced(kafka)) == len(embedded[0]["partitions"])


@in_loop
async def test_two_workers_of_one_group_and_one_that_leaves(kafka, engine, log, embedded):
    topics = make_topics(kafka)
    await produce(kafka, topics.behaviors, map(message, log[:14_000]))
    one, two = (make_context(engine, kafka, batch=2000) for _ in range(2))

    def accepted(context) -> float:
        return context.metrics.registry.get_sample_value("interestream_behaviors_total", {"verdict": "accepted"}) or 0.0

    async with running(one) as first:
        await until(lambda: count(engine, behaviors) > 2000)
        async with running(two) as second:
            await produce(kafka, topics.behaviors, map(message, log[14_000:21_000]))
            await until(lambda: 0 < len(places(second)) < 8 and len(places(first)) + len(places(second)) == 8)
            await produce(kafka, topics.behaviors, map(message, log[21_000:28_000]))  # what both have to share
            await until(lambda: accepted(two) > 0, "the second worker has its share")
        await produce(kafka, topics.behaviors, map(message, log[28_000:]))
        await drained(engine, kafka)
    assert content(engine) == embedded[0]
    assert len(await announced(kafka)) == len(embedded[0]["partitions"])
    assert accepted(one) + accepted(two) == len(embedded[0]["behaviors"])


@in_loop
async def test_a_writer_that_is_behind_is_fenced_and_reads_on_where_the_store_is(kafka, engine, log, embedded):
    """Another hand advances the store behind the stage's back: what it has in memory is void."""
    topics = make_topics(kafka)
    context = make_context(engine, kafka)
    source = source_of(topics.behaviors)
    async with running(context):
        await produce(kafka, topics.behaviors, map(message, log[:5000]))
        await drained(engine, kafka)
        other = Ingest(engine, Policy())
        own = [one for one in log[5000:6000] if owner(one.user_id, 8) == 3]
        before = other.position(source, 3)
        folded = other.fold(own)
        after = folded.after(before, before.offset + len(own), rejected=0, digest=before.digest)
        other.write([Move(source=source, partition=3, before=before, after=after)], [folded])
        await produce(kafka, topics.behaviors, map(message, log[5000:]))
        await drained(engine, kafka)
    assert value(context, "fenced") >= 1
    rows = content(engine)
    assert rows["behaviors"] == embedded[0]["behaviors"]
    assert rows["partitions"] == embedded[0]["partitions"]


@in_loop
async def test_a_worker_out_of_its_group_reads_nothing_until_it_is_given_partitions(kafka, engine, log):
    """What a process meets that was frozen past its session: the group is another generation."""
    topics = make_topics(kafka)
    async with running(make_context(engine, kafka)) as stage:
        await produce(kafka, topics.behaviors, map(message, log[:1000]))
        await drained(engine, kafka)
        consumer = stage._consumer
        coordinator = consumer._client._coordinator
        generations = consumer.generation, coordinator.generation
        coordinator.generation -= 1  # the broker answers IllegalGeneration, as it does to one that slept
        consumer.invalidate()
        await until(lambda: consumer.generation > generations[0])
        await produce(kafka, topics.behaviors, map(message, log[1000:2000]))
        await drained(engine, kafka)
        assert coordinator.generation >= generations[1]  # a static member is let in again without a new generation
    assert count(engine, behaviors) == 2000


def bad_messages() -> dict[str, tuple[bytes | None, bytes | None]]:
    """Every way in which a message is no behaviour, by a word of the reason."""
    good, fields = msgspec.json.encode(GOOD), msgspec.to_builtins(GOOD)
    wrong = {"at": "yesterday", "value": [], "user_id": 7, "scene": {}}
    return {
        "malformed": (b"ann", b"not json"),
        "truncated": (b"ann", good[:-9]),
        "object": (b"ann", b"[1, 2]"),
        "key is null": (None, good),
        "key is not": (b"bob", good),
        "value is null": (b"ann", None),
        "missing": (b"ann", b'{"user_id":"ann"}'),
        "empty": (b"", msgspec.json.encode(fields | {"user_id": ""})),
        "before 1970": (b"ann", good.replace(b"1700000000.0", b"-5")),
        "milliseconds": (b"ann", good.replace(b"1700000000.0", b"1700000000000")),
        "NUL": (b"ann", good.replace(b"film", b"fi\\u0000lm")),
        "utf-8": (b"ann", good.replace(b"film", b"fi\xfflm")),
        "out of range": (b"ann", good.replace(b"1700000000.0", b"1e999")),
        **{f"`$.{name}`": (b"ann", msgspec.json.encode(fields | {name: bad})) for name, bad in wrong.items()},
    }


@in_loop
async def test_malformed_messages_become_dead_letters_and_no_good_one_is_lost(kafka, engine):
    topics = make_topics(kafka)
    bad = bad_messages()
    mixed = []
    for number, one in enumerate(bad.values()):
        mixed += [one, message(msgspec.structs.replace(GOOD, at=GOOD.at + number))]
    context = make_context(engine, kafka)
    await produce(kafka, topics.behaviors, mixed)
    async with running(context):
        await drained(engine, kafka)
    found = await letters(kafka, topics.behaviors)
    assert sorted((one.key or b"", one.value or b"") for one in found) == sorted(
        (k or b"", v or b"") for k, v in bad.values()
    )
    assert {one.topic for one in found} == {topics.behaviors}
    assert len({(one.partition, one.offset) for one in found}) == len(bad)
    for word, (_, raw) in bad.items():
        assert any(one.value == raw and word.lower() in one.reason.lower() for one in found), (
            word,
            [f.reason for f in found],
        )
    assert count(engine, behaviors) == len(bad)
    positions = positions_of(engine, source_of(topics.behaviors)).values()
    assert sum(one.rejected for one in positions) == len(bad) == value(context, "dead_letters", topic=topics.behaviors)
    assert value(context, "behaviors", verdict="rejected") == len(bad)


def test_a_letter_about_a_message_that_is_too_large_keeps_its_beginning():
    key, raw, headers = dead_letter("t", 1, 2, b"k", b"x" * (MAX_DEAD + 1), 3, "too large")
    letter = read_letter(raw, headers)
    assert key == b"t/1/2"
    assert (letter.truncated, letter.value) == (MAX_DEAD + 1, b"x" * 1024)


POISON = {
    "sqlite": [
        "create trigger t before insert on behaviors when new.item_id = 'poison' begin select raise(abort, 'no'); end"
    ],
    "postgresql": [
        "create function f() returns trigger as $$ begin raise exception 'no'; end $$ language plpgsql",
        "create trigger t before insert on behaviors for each row when (new.item_id = 'poison') execute function f()",
    ],
}


@in_loop
async def test_a_row_that_the_store_refuses_is_found_and_set_aside(kafka, engine, log):
    topics = make_topics(kafka)
    with engine.begin() as connection:
        for statement in POISON[engine.dialect.name]:
            connection.exec_driver_sql(statement)
    batch = [message(one) for one in log[:500]]
    for place in (100, 101, 333):
        batch.insert(place, message(msgspec.structs.replace(GOOD, item_id="poison", at=GOOD.at + place)))
    await produce(kafka, topics.behaviors, batch)
    async with running(make_context(engine, kafka)):
        await drained(engine, kafka)
    found = await letters(kafka, topics.behaviors)
    assert [one.reason for one in found] == ["the store refuses it: no"] * 3
    assert {one.value for one in found} == {body for _, body in batch if b"poison" in body}
    assert count(engine, behaviors) == 500


@in_loop
async def test_offers_are_kept_as_the_embedded_replay_keeps_them_and_announce_nothing(kafka, engine, log, tmp_path):
    rows = [
        msgspec.structs.replace(one, action=("rate", OFFERED)[n % 3 == 0], scene=("home", None)[n % 2], event_id=None)
        for n, one in enumerate(log[:600])
    ]
    file = tmp_path / "offers.jsonl"
    file.write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    inner = open_store(f"sqlite:///{tmp_path / 'embedded.db'}")
    replay(inner, BehaviorLog(file, {}), Policy(count=20))
    topics = make_topics(kafka)
    for part in (rows[:300], rows[300:]):
        async with running(make_context(engine, kafka, count=20, batch=100)):
            await produce(kafka, topics.behaviors, map(message, part))
            await drained(engine, kafka)
    assert content(engine) == content(inner)
    assert offers_of(engine) == offers_of(inner)
    assert len(offers_of(engine)) == len({(one.user_id, one.at, one.item_id) for one in rows if one.action == OFFERED})
    assert not await letters(kafka, topics.behaviors)
    assert len(await announced(kafka)) == count(engine, partitions)
    inner.dispose()


def offers_of(engine):
    with engine.connect() as connection:
        return sorted(tuple(row) for row in connection.execute(select(offers)))


@in_loop
async def test_items_and_users_are_there_before_the_first_behaviour(kafka, engine):
    topics = make_topics(kafka)
    film = Item(item_id="film", title="A Film", categories=("drama",), attributes={"year": "1995"})
    ann = User(user_id="ann", attributes={"age": "30"})
    await produce(kafka, topics.items, [
        (b"film", msgspec.json.encode(film)), (b"gone", msgspec.json.encode(Item(item_id="gone"))), (b"gone", None),
        (b"film", b"nonsense"), (b"other", msgspec.json.encode(film)), (b"", msgspec.json.encode(film)),
    ])  # fmt: skip
    await produce(
        kafka, topics.users, [(b"ann", msgspec.json.encode(ann)), (b"bob", b'{"user_id":"bob","attributes":7}')]
    )
    await produce(kafka, topics.behaviors, [message(GOOD)])
    async with running(make_context(engine, kafka, count=None, tokens=10)):
        await drained(engine, kafka, topics.items, topics.users, topics.behaviors)
        with engine.connect() as connection:
            assert read_items(connection) == {"film": film}
            assert read_users(connection) == {"ann": ann}
        renamed = msgspec.structs.replace(film, title="Another")
        await produce(kafka, topics.items, [(b"film", msgspec.json.encode(renamed))])
        await produce(kafka, topics.users, [(b"ann", None)])
        await drained(engine, kafka, topics.items, topics.users)
    with engine.connect() as connection:
        assert read_items(connection) == {"film": renamed}
        assert read_users(connection) == {}
    assert len(await letters(kafka, topics.items)) == 3
    assert len(await letters(kafka, topics.users)) == 1
    (position, *_) = [one for one in positions_of(engine, source_of(topics.users)).values() if one.rejected]
    assert position.rejected == 1


@in_loop
async def test_a_user_forgotten_while_memory_is_warm_is_not_written_back(kafka, engine):
    topics = make_topics(kafka)

    def of(user, first, last):
        return [message(msgspec.structs.replace(GOOD, user_id=user, at=GOOD.at + n)) for n in range(first, last)]

    async with running(make_context(engine, kafka, count=10)):
        await produce(kafka, topics.behaviors, of("ann", 0, 25) + of("bob", 0, 25))
        await drained(engine, kafka)
        await asyncio.to_thread(forget, engine, "ann")
        await produce(kafka, topics.behaviors, of("bob", 25, 30) + of("ann", 25, 37))
        await drained(engine, kafka)
    rows = content(engine)
    assert [(row[1], row[4] - GOOD.at) for row in rows["behaviors"] if row[0] == "ann"] == [
        (n, n + 25) for n in range(12)
    ]
    assert [row[2:5] for row in rows["partitions"] if row[0] == "ann"] == [(0, 0, 9)]
    assert [row[2:5] for row in rows["partitions"] if row[0] == "bob"] == [(0, 0, 9), (1, 10, 19), (2, 20, 29)]


@in_loop
async def test_the_end_of_a_transaction_is_no_lag(kafka, store):
    """Kafka's own records take offsets that no consumer is given; the stored offset steps over them."""
    topics = make_topics(kafka)
    producer = make_producer(kafka, transactional_id=f"{kafka.prefix}one")
    await producer.start()
    async with producer.transaction():
        key, body = message(GOOD)
        await producer.send(topics.behaviors, body, key=key)
    await producer.stop()
    context = make_context(store, kafka)
    async with running(context):
        mine = owner("ann", 8)
        await until(lambda: positions_of(store, source_of(topics.behaviors)), "the first positions")
        await until(lambda: positions_of(store, source_of(topics.behaviors))[mine].offset == 2, "behind the marker")
        await until(
            lambda: value(context, "lag", stage="ingest", topic=topics.behaviors, partition=str(owner("ann", 8))) == 0
        )
        assert context.health.reasons_not_ready(time.monotonic()) == []


@in_loop
async def test_what_a_crash_left_in_the_outbox_is_sent(kafka, engine):
    topics = make_topics(kafka)
    left = Announcement(topic=topics.partitions, partition=2, offset=5, user_id="ann", message=b"{}")
    with writing(engine) as connection:
        outbox_of.add(connection, [left])
    async with running(make_context(engine, kafka)):
        await until(lambda: count(engine, outbox) == 0)
    (sent,) = await read_all(kafka, topics.partitions)
    assert (sent.partition, sent.key, sent.value) == (2, b"ann", b"{}")


@in_loop
async def test_the_metrics_tell_what_was_done(kafka, store):
    topics = make_topics(kafka)
    context = make_context(store, kafka, count=10)
    async with running(context):
        series = [message(msgspec.structs.replace(GOOD, at=GOOD.at + n)) for n in (*range(25), 3, 24)]
        await produce(kafka, topics.behaviors, series)
        await drained(store, kafka)
        assert context.health.started
    # 3 is of the partition before the newest closed one, where nothing is looked up any more: late, and accepted
    assert {one: value(context, "behaviors", verdict=one) for one in ("accepted", "late", "duplicate", "rejected")} == {
        "accepted": 25,
        "late": 1,
        "duplicate": 1,
        "rejected": 0,
    }
    assert value(context, "partitions_closed", reason="count") == 2
    assert value(context, "announced", topic=topics.partitions) == 2
    assert value(context, "messages", stage="ingest", topic=topics.behaviors) == 27
    assert context.metrics.registry.get_sample_value("interestream_latency_seconds_count", {"stage": "ingest"}) == 2
