"""`dead`: letters are listed once, sent again as they were, closed only after that, and nothing is lost in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaProducer
from sqlalchemy import select
from typer.testing import CliRunner

from interest.errors import InputError
from interest.store.tables import behaviors as behaviors_table
from streams.admin import dead_letters
from streams.admin.dead_letters import OpenLetter, close, discard, open_letters, read_whole, replay
from streams.cli import app
from streams.commands.dead import printable
from streams.kafka.clients import MAX_DEAD, KafkaError, consumer_for_command, python_options
from streams.kafka.dead_letter import MAX_EXCERPT, dead_letter, read_letter
from streams.kafka.provision import create_topics
from streams.kafka.read import read_offset_ranges, read_records
from streams.kafka.topics import Topics, dead_of
from streams.settings.schema import KafkaSettings
from streams.stages.ingest.offsets import positions_of
from streams.store.tables import source_of
from tests.support.stage_rig import drained, in_loop, make_context, produce, running

GOOD = b'{"user_id": "u1", "item_id": "i1", "action": "view", "at": 1000.0}'


@pytest.fixture
def settings(kafka, monkeypatch):
    settings = msgspec.structs.replace(kafka, partitions=3)
    create_topics(settings)
    monkeypatch.setenv("INTERESTREAM_KAFKA", settings.brokers)
    monkeypatch.setenv("INTERESTREAM_KAFKA_PREFIX", settings.prefix)
    return settings


@pytest.fixture
def producer(settings):
    producer = KafkaProducer(**python_options(settings), max_request_size=2 * MAX_DEAD)
    yield producer
    producer.close()


@pytest.fixture
def bury(settings, producer):
    """Write a letter about behaviors[partition]@offset."""
    topic = Topics(settings.prefix).behaviors

    def write(offset, value=b"{", key=b"u1", partition=1, reason="not JSON", topic=topic):
        name, body, headers = dead_letter(topic, partition, offset, key, value, 1_000_000_000_000, reason)
        producer.send(dead_of(topic), body, key=name, headers=headers).get(30)
        return name.decode()

    return write


def everything(settings: KafkaSettings, topic: str) -> list:
    with consumer_for_command(settings) as client:
        return list(read_records(client, read_offset_ranges(settings, [topic])))


def behaviors(settings: KafkaSettings) -> list:
    return everything(settings, Topics(settings.prefix).behaviors)


def run(*arguments: str, code: int = 0) -> str:
    outcome = CliRunner().invoke(app, ["dead", *arguments])
    assert outcome.exit_code == code, (outcome.output, outcome.exception)
    return outcome.stdout


@given(
    st.one_of(st.none(), st.binary(max_size=50)),
    st.one_of(st.none(), st.binary(max_size=50)),
    st.integers(0, 2**62),
    st.integers(-(2**40), 2**45),
    st.text(),
)
def test_a_letter_is_read_back_as_it_was_written(key, value, offset, timestamp, reason):
    name, body, headers = dead_letter("p.behaviors", 3, offset, key, value, timestamp, reason)
    letter = read_letter(body, headers)
    assert (letter.key, letter.value, letter.truncated) == (key, value, None)
    assert (letter.offset, letter.partition, letter.timestamp_ms) == (offset, 3, timestamp)
    assert name == b"p.behaviors/3/%d" % offset


@given(st.binary(max_size=300))
def test_no_byte_reaches_the_terminal_as_a_command(raw):
    assert printable(raw).isprintable()
    assert printable(b"caf\xc3\xa9 \xff\x1b[2J\n") == "café \\xff\\x1b[2J\\n"


def test_a_letter_that_came_twice_is_listed_once_with_its_newest_reason(settings, bury):
    bury(7, reason="first")
    again = bury(7, reason="second")
    bury(5, partition=2)
    bury(3, topic=Topics(settings.prefix).items)
    found = open_letters(settings)
    assert [(one.id, one.reason) for one in found] == [
        (again, "second"),
        (f"{settings.prefix}behaviors/2/5", "not JSON"),
        (f"{settings.prefix}items/1/3", "not JSON"),
    ]
    assert [one.offset for one in open_letters(settings, "items")] == [3]
    assert [one.offset for one in open_letters(settings, f"{settings.prefix}behaviors.dead", reason="SECOND")] == [7]
    with pytest.raises(InputError, match="'interest-latest' has no dead letters"):
        open_letters(settings, "interest-latest")
    with pytest.raises(InputError, match=r"no dead letter is open for \S+behaviors/0/99"):
        open_letters(settings, ids=["behaviors/0/99"])


def test_replay_sends_the_same_bytes_to_the_same_partition_and_closes_the_letter(settings, bury):
    for offset, value in enumerate([b'{"a": 1}', b"\xff\x00", b"", None]):
        bury(offset, value, key=b"u%d" % offset, partition=offset % 3)
    outcome = replay(settings, open_letters(settings))
    assert (outcome.sent, outcome.truncated, outcome.refused) == (4, (), ())
    sent = sorted((one.key, one.value, one.partition) for one in behaviors(settings) if one.value is not None)
    assert sent == [(b"u0", b'{"a": 1}', 0), (b"u1", b"\xff\x00", 1), (b"u2", b"", 2)]
    assert [(one.key, one.partition) for one in behaviors(settings) if one.value is None] == [(b"u3", 0)]
    assert open_letters(settings) == []
    assert replay(settings, open_letters(settings)).sent == 0
    assert len(behaviors(settings)) == 4


def test_messages_go_in_the_order_they_had_whatever_the_order_of_their_letters(settings, bury, monkeypatch):
    monkeypatch.setattr(dead_letters, "CHUNK_LETTERS", 4)  # so that several rounds are needed
    for offset in (9, 2, 14, 0, 7, 1, 11, 3, 5):
        bury(offset, b"%d" % offset)
    replay(settings, open_letters(settings))
    assert [int(one.value) for one in behaviors(settings)] == [0, 1, 2, 3, 5, 7, 9, 11, 14]


def test_a_crash_before_the_letters_are_closed_loses_nothing_and_sends_nothing_twice(settings, bury, monkeypatch):
    monkeypatch.setattr(dead_letters, "CHUNK_LETTERS", 2)
    for offset in range(5):
        bury(offset, b"%d" % offset)
    closed: list[OpenLetter] = []

    def close_once(producer, letters, how):
        if closed:
            raise ConnectionError("the machine is switched off")
        closed.extend(letters)
        close(producer, letters, how)

    with monkeypatch.context() as crash:
        crash.setattr(dead_letters, "close", close_once)
        with pytest.raises(ConnectionError):
            replay(settings, open_letters(settings))
    assert [int(one.value) for one in behaviors(settings)] == [0, 1]
    assert [one.offset for one in open_letters(settings)] == [2, 3, 4]
    replay(settings, open_letters(settings))
    assert [int(one.value) for one in behaviors(settings)] == [0, 1, 2, 3, 4]
    assert open_letters(settings) == []


def test_what_a_killed_replay_has_begun_is_undone_by_the_next(settings, bury):
    bury(0, b"0")
    letters = open_letters(settings)
    with contextlib.suppress(KafkaError), dead_letters._transactional(settings) as killed:
        killed.begin_transaction()
        dead_letters._send(killed, [(letters[0], b"0", letters[0].key, 0)])
        close(killed, letters, "replayed")
        dead_letters.end_unfinished_replay(settings)  # as `dead replay` begins
        assert behaviors(settings) == []
        assert [one.id for one in open_letters(settings)] == [letters[0].id]
        replay(settings, letters)
    assert [int(one.value) for one in behaviors(settings)] == [0]
    assert open_letters(settings) == []


def test_a_letter_that_arrives_after_it_was_closed_is_open_again(settings, bury):
    """As when a worker that had crashed before its commit reads the message once more."""
    bury(1)
    discard(settings, open_letters(settings))
    assert open_letters(settings) == []
    bury(1, reason="again")
    assert [one.reason for one in open_letters(settings)] == ["again"]


def test_null_values_are_letters_and_not_tombstones(settings, bury):
    place = bury(4, None, reason="the value is null")
    [letter] = open_letters(settings)
    assert (letter.id, letter.size) == (place, None)
    bury(5, None, key=None)
    outcome = replay(settings, open_letters(settings))
    assert outcome.sent == 1
    [(refused, why)] = outcome.refused
    assert refused.endswith("/5")
    assert "nothing to send" in why
    assert [one.offset for one in open_letters(settings)] == [5]


def test_a_cut_letter_is_not_sent_and_points_to_the_whole_message(settings, bury):
    place = bury(8, b"x" * (MAX_DEAD + 1))
    bury(9, b"y" * 3_000_000)
    listed = open_letters(settings)
    assert [(one.size, one.truncated) for one in listed] == [(MAX_DEAD + 1, True), (3_000_000, False)]
    assert len(read_whole(settings, listed[0]).value or b"") == MAX_EXCERPT
    said = run("replay", "--yes", "--force", code=1)
    assert "0 messages sent again" in said
    assert f"not sent: {place} is cut off here" in said
    assert "partition 1, offset 8" in said
    assert "max.message.bytes" in said  # the other is larger than the topic allows
    assert [one.offset for one in open_letters(settings)] == [8, 9]
    assert "only the first 1,024 of 16,777,217 bytes" in run("show", place)


def test_a_message_is_mended_by_hand(settings, bury, tmp_path):
    place = bury(3, b'{"at": 1\x1b]', key=None, reason="bad")
    file = tmp_path / "message.json"
    shown = run("show", place)
    assert "key        null" in shown
    assert r'{"at": 1\x1b]' in shown
    assert run("show", place, "--raw").encode() == b'{"at": 1\x1b]'
    file.write_bytes(b'{"mended": true}')
    said = run("replay", "--id", place, "--value", str(file), "--key", "u77", "--yes", code=1)
    assert "missing required field `user_id`" in said
    file.write_bytes(GOOD)
    assert "the key is not the user_id 'u1'" in run(
        "replay", "--id", place, "--value", str(file), "--key", "u77", "--yes", code=1
    )
    assert behaviors(settings) == []
    said = run("replay", "--id", place, "--value", str(file), "--key", "u1", "--yes")
    assert "1 messages sent again" in said
    assert "refused" not in said
    [message] = behaviors(settings)
    assert (message.key, message.value) == (b"u1", GOOD)
    assert open_letters(settings) == []
    for wrong in (["--value", str(file)], ["--value", str(file), "--id", "a/0/1", "--id", "a/0/2"]):
        outcome = CliRunner().invoke(app, ["dead", "replay", *wrong])
        assert isinstance(outcome.exception, InputError)


def test_what_would_be_refused_again_is_told_and_left_out(settings, bury):
    """Each topic's messages are checked as its stage would; only those that may pass are sent."""
    topics = Topics(settings.prefix)
    future = json.dumps(json.loads(GOOD) | {"at": time.time() + 3_600}).encode()
    person, film = b'{"user_id": "u1", "attributes": {}}', b'{"item_id": "i1", "title": "Heat"}'
    places = {
        "may pass": [
            bury(1, GOOD, reason="the store refuses it: no"),
            bury(
                2, future, reason="at is 3 days after the message was produced"
            ),  # it was, by a clock that is right now
            bury(3, person, topic=topics.users),
            bury(4, None, topic=topics.users),
            bury(5, film, key=b"i1", topic=topics.items),
        ],
        "cannot": [
            bury(11, GOOD, key=None, reason="the key is null"),
            bury(12, b"{"),
            bury(13, b"{"),
            bury(14, film, topic=topics.users),
            bury(15, film, key=b"i2", topic=topics.items),
            bury(16, GOOD, topic=topics.partitions),
            bury(17, None, topic=topics.updates),
        ],
    }
    everyone = set(places["may pass"] + places["cannot"])
    assert {one.id for one in open_letters(settings)} == everyone
    asked = CliRunner().invoke(app, ["dead", "replay"], input="n\n")
    assert asked.exit_code == 1
    assert "7 of 12 would be refused again; left out:" in asked.output
    assert f"        2  {topics.behaviors}: Input data was truncated (e.g. {topics.behaviors}/1/12)" in asked.output
    assert "the key is null; key the message with its user_id" in asked.output
    assert "Send 5 messages" in asked.output
    assert {one.id for one in open_letters(settings)} == everyone
    said = run("replay", "--yes", code=1)
    assert "5 messages sent again" in said
    assert {one.id for one in open_letters(settings)} == set(places["cannot"])
    assert [one.value for one in behaviors(settings)] == [GOOD, future]

    said = run("replay", "--yes", code=1)
    assert "7 of 7 would be refused again; left out:" in said
    assert "sent again" not in said
    assert len(behaviors(settings)) == 2
    said = run("replay", "--yes", "--force")
    assert "7 of 7 would be refused again; sent all the same:" in said
    assert "7 messages sent again" in said
    assert len(behaviors(settings)) == 5
    assert open_letters(settings) == []


def test_the_commands_ask_first_and_narrow(settings, bury):
    bury(1, reason="no item_id")
    bury(2, reason="no item_id")
    bury(3, reason="not JSON")
    outcome = CliRunner().invoke(app, ["dead", "discard", "--reason", "item"], input="n\n")
    assert outcome.exit_code == 1
    assert "2  " in outcome.output
    assert len(open_letters(settings)) == 3
    assert "2 dead letters discarded" in run("discard", "behaviors", "--reason", "item", "--yes")
    listed = json.loads(run("list", "--json"))
    assert listed["total"] == 1
    assert listed["letters"][0]["reason"] == "not JSON"
    assert "1 messages sent again" in run("replay", "--id", "behaviors/1/3", "--yes", "--force")
    assert "no dead letters" in run("list")
    assert "no dead letters to replay" in run("replay", "--yes")
    assert "no dead letters to discard" in run("discard", "--yes")


def test_list_counts_all_and_shows_some(settings, bury):
    for offset in range(6):
        bury(offset, reason=f"reason {offset % 2}")
    said = run("list", "--limit", "2")
    assert said.count("behaviors: reason") == 2
    assert "and 4 more: --limit" in said


def test_a_place_that_is_none_is_told(settings, tmp_path: Path):
    for place in ("behaviors", "behaviors/1", "behaviors/x/1", "elsewhere/0/0"):
        outcome = CliRunner().invoke(app, ["dead", "show", place])
        assert isinstance(outcome.exception, InputError)
        assert place in str(outcome.exception)[:60] or "elsewhere" in str(outcome.exception)


@in_loop
async def test_a_mended_message_is_ingested_and_one_replayed_twice_counts_once(settings, store, tmp_path):
    """From the worker that refused it, through the operator's hands, into the store."""
    topics = Topics(settings.prefix)
    good = {"user_id": "u1", "item_id": "i1", "action": "view", "at": 1_000.0}
    bad = {"user_id": "u1", "action": "view", "at": 1_001.0}
    await produce(settings, topics.behaviors, [(b"u1", json.dumps(one).encode()) for one in (good, bad)])
    file = tmp_path / "mended.json"
    file.write_text(json.dumps(bad | {"item_id": "i2"}))
    async with running(make_context(store, settings)):
        await drained(store, settings)
        [letter] = await asyncio.to_thread(open_letters, settings)
        assert "item_id" in letter.reason
        said = await asyncio.to_thread(run, "replay", "--yes", "--force")  # not mended: it comes back, another letter
        assert "1 messages sent again" in said
        await drained(store, settings)
        [again] = await asyncio.to_thread(open_letters, settings)
        assert (again.partition, again.offset, again.reason) == (letter.partition, letter.offset + 1, letter.reason)
        for _ in range(2):  # as after a crash between the message and its letter's end
            await asyncio.to_thread(replay, settings, [again], value=file.read_bytes())
        await drained(store, settings)
    with store.connect() as connection:
        rows = connection.execute(select(behaviors_table.c.item_id).order_by(behaviors_table.c.seq)).scalars().all()
    assert rows == ["i1", "i2"]
    assert sum(one.duplicates for one in positions_of(store, source_of(topics.behaviors)).values()) == 1
    assert await asyncio.to_thread(open_letters, settings) == []
