"""`forget` with Kafka: tombstones on the compacted topics, and nothing of the user comes back. On the real broker."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from deploy.kafka.node import free_port
from interest.errors import InputError
from interest.store.sql import writing
from streams.admin.dead_letters import open_letters
from streams.admin.forget_topics import forget_on_topics
from streams.cli import app
from streams.kafka.clients import KafkaError, make_producer
from streams.kafka.dead_letter import dead_letter
from streams.kafka.partitioner import Partitioner
from streams.kafka.provision import create_topics
from streams.kafka.topics import Topics
from streams.store import forget as forgetting
from streams.store.engine import open_store
from streams.store.outbox import Announcement, add
from tests.support.stage_rig import drained, in_loop, make_context, produce, read_all, running

ANN, BOB = "ann-q7x9zk", "bob"


@pytest.fixture
def settings(kafka, monkeypatch):
    settings = msgspec.structs.replace(kafka, partitions=3, retention_days=2.0)
    create_topics(settings)
    monkeypatch.setenv("INTERESTREAM_KAFKA", settings.brokers)
    monkeypatch.setenv("INTERESTREAM_KAFKA_PREFIX", settings.prefix)
    return settings


@pytest.fixture
def topics(settings):
    return Topics(settings.prefix)


def of(user: str, count: int) -> list[tuple[bytes, bytes]]:
    body = {"user_id": user, "action": "view", "scene": "home"}
    return [(user.encode(), json.dumps(body | {"item_id": f"i{n}", "at": 1_000.0 + n}).encode()) for n in range(count)]


def profile(user: str) -> tuple[bytes, bytes]:
    return user.encode(), json.dumps({"user_id": user, "attributes": {"age": "24"}}).encode()


def traces(store, name: str = ANN) -> list[str]:
    """Every row of every table that names the user."""
    with store.connect() as connection:
        tables = connection.execute(text("select name from sqlite_master where type = 'table'")).scalars().all()
        rows = [(table, row) for table in tables for row in connection.execute(text(f'select * from "{table}"'))]
    return [f"{table}: {row}" for table, row in rows if name in str(row) or name.encode() in b"".join(_bytes(row))]


def _bytes(row) -> list[bytes]:
    return [value for value in row if isinstance(value, bytes)]


def forget(store, *arguments: str, code: int = 0, **more) -> str:
    outcome = CliRunner().invoke(app, ["forget", *arguments, "--store", str(store.url)], **more)
    assert outcome.exit_code == code, (outcome.output, outcome.exception)
    return outcome.output


def last_words(messages) -> dict[tuple[bytes, int], bytes | None]:
    """What compaction leaves of a topic: the last message of each key in each partition."""
    return {(message.key, message.partition): message.value for message in messages}


@in_loop
async def test_nothing_of_a_forgotten_user_comes_back(store, settings, topics, tmp_path):
    context = make_context(store, settings, count=4)
    await produce(settings, topics.users, [profile(ANN), profile(BOB)])
    await produce(settings, topics.behaviors, of(ANN, 10) + of(BOB, 10))
    for topic in (topics.latest, topics.representations):
        await produce(settings, topic, [(ANN.encode(), b"{}"), (BOB.encode(), b"{}")])
    async with running(context):
        await drained(store, settings, topics.behaviors, topics.users)
    with writing(store) as connection:  # as a crash between commit and announcement leaves it
        one = Announcement(topic=topics.partitions, partition=0, offset=0, user_id=ANN, message=b'{"user": "ann"}')
        add(connection, [one])
    assert {line.split(":")[0] for line in traces(store)} == {"behaviors", "partitions", "users", "outbox"}

    said = await asyncio.to_thread(forget, store, ANN, "--yes")
    assert "outbox                   1 rows deleted" in said
    assert f"{topics.latest}: tombstones in all 3 partitions" in said
    assert f"{topics.behaviors}: a log; it holds what the user's messages said for 3 days at most" in said
    assert traces(store) == []
    for topic in (topics.users, topics.latest, topics.representations):
        kept = last_words(await read_all(settings, topic))
        assert {value for (key, _), value in kept.items() if key == ANN.encode()} == {None}
        assert len([key for key, _ in kept if key == ANN.encode()]) == 3
        assert [value for (key, _), value in kept.items() if key == BOB.encode()] != [None]
    known = len(traces(store, BOB))

    async with running(context):  # a new worker reads the tombstones, and sends what the outbox has
        await drained(store, settings, topics.behaviors, topics.users)
    assert traces(store) == []
    assert len(traces(store, BOB)) == known
    sent = [message for message in await read_all(settings, topics.partitions) if b"ann" in (message.value or b"")]
    assert [message for message in sent if message.value == b'{"user": "ann"}'] == []

    anew = open_store(f"sqlite:///{tmp_path / 'anew.db'}")  # and a store that begins with the compacted topic
    async with running(make_context(anew, settings, count=4)):
        await drained(anew, settings, topics.users)
    assert not [line for line in traces(anew) if line.startswith("users:")]
    assert [line for line in traces(anew, BOB) if line.startswith("users:")]
    anew.dispose()


def fill(store) -> None:
    with writing(store) as connection:
        connection.execute(text(f"insert into users (user_id, attributes) values ('{ANN}', '{{}}')"))


def test_while_kafka_is_away_the_store_is_done_and_the_topics_later(store, settings, topics, monkeypatch):
    fill(store)
    asyncio.run(produce(settings, topics.users, [profile(ANN)]))
    monkeypatch.setenv("INTERESTREAM_KAFKA", f"127.0.0.1:{free_port()}")
    outcome = CliRunner().invoke(app, ["forget", ANN, "--yes", "--store", str(store.url)])
    assert isinstance(outcome.exception, KafkaError)
    assert "the store has forgotten the user, the topics have not: no Kafka answers" in str(outcome.exception)
    assert "Run the same command again" in str(outcome.exception)
    assert traces(store) == []

    monkeypatch.setenv("INTERESTREAM_KAFKA", settings.brokers)
    asked = forget(store, ANN, input="n\n", code=1)
    assert f"no user '{ANN}'" in asked
    assert "on the topics" in asked
    assert f"{topics.users}: tombstones in all 3 partitions" in forget(store, ANN, "--yes")
    assert f"{topics.users}: tombstones in all 3 partitions" in forget(store, ANN, "--yes")  # as often as you like


def compacted(settings) -> list:
    topics = Topics(settings.prefix)
    names = (topics.users, topics.latest, topics.representations)
    return [message for name in names for message in asyncio.run(read_all(settings, name))]


def test_a_user_whom_nobody_knows_is_an_error_and_nothing_is_written(store, settings, topics):
    fill(store)
    asyncio.run(produce(settings, topics.latest, [(BOB.encode(), b"{}")]))
    before = compacted(settings), traces(store)
    typo = ANN[:-1]
    outcome = CliRunner().invoke(app, ["forget", typo, "--yes", "--store", str(store.url)])
    assert isinstance(outcome.exception, InputError)
    assert f"nothing was changed, for nobody knows '{typo}'" in str(outcome.exception)
    assert "tombstones" not in outcome.output
    assert (compacted(settings), traces(store)) == before
    assert f"{topics.users}: tombstones in all 3 partitions" in forget(store, typo, "--yes", "--force")
    assert len([one for one in compacted(settings) if (one.key, one.value) == (typo.encode(), None)]) == 9


@pytest.mark.parametrize("where", ["users", "latest", "representations", "dead"])
def test_a_forget_that_was_interrupted_is_completed(store, settings, topics, monkeypatch, where):
    """The rows are gone, their bytes are not; of the topics one has a trace, or a tombstone in one partition only."""
    fill(store)

    async def leave() -> None:
        async with make_producer(settings) as producer:
            if where == "dead":
                key, value, headers = dead_letter(topics.behaviors, 0, 7, ANN.encode(), b"{", 0, "not JSON")
                await producer.send_and_wait(f"{topics.behaviors}.dead", value, key=key, headers=headers)
            else:
                at = (Partitioner(3)[ANN] + 1) % 3  # not where Kafka's partitioner would put it
                value = None if where == "latest" else b"{}"
                await producer.send_and_wait(getattr(topics, where), value, key=ANN.encode(), partition=at)

    asyncio.run(leave())
    with monkeypatch.context() as crash:

        def stop(_: object) -> None:
            raise KeyboardInterrupt

        crash.setattr(forgetting, "erase", stop)
        with pytest.raises(KeyboardInterrupt):
            forgetting.forget(store, ANN)
    assert traces(store) == []
    files = list(Path(store.url.database).parent.glob("store.db*"))
    assert ANN.encode() in b"".join(path.read_bytes() for path in files)

    assert f"{topics.users}: tombstones in all 3 partitions" in forget(store, ANN, "--yes")
    assert ANN.encode() not in b"".join(path.read_bytes() for path in files)
    for topic in (topics.users, topics.latest, topics.representations):
        kept = last_words(asyncio.run(read_all(settings, topic)))
        assert [value for (key, _), value in kept.items() if key == ANN.encode()] == [None] * 3
    assert open_letters(settings) == []


def test_the_topics_are_left_alone_unless_kafka_is_configured(store, settings, topics, monkeypatch):
    fill(store)
    assert "tombstones" not in forget(store, ANN, "--yes", "--no-kafka")
    fill(store)
    monkeypatch.delenv("INTERESTREAM_KAFKA")
    assert "tombstones" not in forget(store, ANN, "--yes")
    assert asyncio.run(read_all(settings, topics.users)) == []


def test_the_users_dead_letters_are_discarded(settings, topics):
    async def bury() -> None:
        for offset, (topic, user) in enumerate([(topics.behaviors, ANN), (topics.users, ANN), (topics.behaviors, BOB)]):
            key, value, headers = dead_letter(topic, 0, offset, user.encode(), b"{", 0, "not JSON")
            async with make_producer(settings) as producer:
                await producer.send_and_wait(f"{topic}.dead", value, key=key, headers=headers)

    asyncio.run(bury())
    assert forget_on_topics(settings, ANN).letters == 2
    assert [letter.key for letter in open_letters(settings)] == [BOB.encode()]
