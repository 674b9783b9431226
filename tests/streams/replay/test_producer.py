"""A log produced to a real Kafka: every row once and in order, however often the producer is killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka.partitioner import DefaultPartitioner

from benchmarks.rig.antm2c import plant
from deploy.kafka.node import Node
from interest.errors import InputError
from interest.types import OFFERED, Behavior, Item, User
from streams.cli import app
from streams.files.rows import BehaviorLog
from streams.files.sort import in_time_order
from streams.kafka.clients import KafkaError
from streams.kafka.errors import is_retriable
from streams.kafka.partitioner import Partitioner
from streams.kafka.provision import create_topics
from streams.kafka.topics import Topics
from streams.replay.checkpoint import ReplayCheckpoint
from streams.replay.embedded import source_name
from streams.replay.messages import HEADER, row_of
from streams.replay.producer import LogProducer, Produced
from streams.replay.rate import Rate
from streams.settings.schema import KafkaSettings
from tests.support.kafka_reading import Message, read_all
from tests.support.moments import SOAK, moments

COMMAND = Path(sys.executable).parent / "interestream"
AT = 1_700_000_000


@pytest.fixture
def topics(kafka: KafkaSettings) -> KafkaSettings:
    settings = msgspec.structs.replace(kafka, partitions=4)
    create_topics(settings)
    return settings


def write_log(path: Path, rows: int, *, users: int = 300, shuffled: bool = True) -> Path:
    chosen = random.Random(1)
    lines = [
        f"u{chosen.randrange(users)},{chosen.randrange(500)},{chosen.randrange(1, 6)},{AT + number / 7}"
        for number in range(rows)
    ]
    if shuffled:
        chosen.shuffle(lines)
    path.write_text("\n".join(["user_id,item_id,rating,timestamp", *lines]) + "\n")
    return path


def produce(settings: KafkaSettings, path: Path, **options: Any) -> Produced:
    return asyncio.run(LogProducer(settings=settings, log=BehaviorLog(path, {}), **options).run())


def command(settings: KafkaSettings, *arguments: object) -> tuple[list[str], dict[str, str]]:
    environment = {"INTERESTREAM_KAFKA": settings.brokers, "INTERESTREAM_KAFKA_PREFIX": settings.prefix}
    return [str(COMMAND), *map(str, arguments)], os.environ | environment


def interestream(settings: KafkaSettings, *arguments: object) -> subprocess.CompletedProcess[str]:
    line, environment = command(settings, *arguments)
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)


def contents(settings: KafkaSettings) -> dict[int, list[Message]]:
    return read_all(settings, Topics(settings.prefix).behaviors)


def expected(path: Path, partitions: int) -> dict[int, list[tuple[bytes, Behavior]]]:
    found: dict[int, list[tuple[bytes, Behavior]]] = defaultdict(list)
    partitioner = DefaultPartitioner()
    for rows in in_time_order(BehaviorLog(path, {}))[1]:
        for behavior in rows.behaviors():
            key = behavior.user_id.encode()
            found[partitioner(key, list(range(partitions)), [])].append((key, behavior))
    return found


def decoded(messages: dict[int, list[Message]]) -> dict[int, list[tuple[bytes, Behavior]]]:
    return {
        partition: [(one.key, msgspec.json.decode(one.value, type=Behavior)) for one in ones]
        for partition, ones in messages.items()
        if ones
    }


def test_every_row_arrives_once_in_order_of_time_in_the_partition_of_its_user(
    topics: KafkaSettings, tmp_path: Path
) -> None:
    log = write_log(tmp_path / "log.csv", 45_000)
    shown: list[int] = []
    started = time.time() * 1000
    produced = produce(topics, log, started=lambda rows, done, _sorted: shown.append(rows - done) or shown.append)  # type: ignore[func-returns-value]
    assert (produced.new, produced.rows, produced.ended) == (45_000, 45_000, True)
    assert shown[0] == sum(shown[1:]) == 45_000
    messages = contents(topics)
    assert decoded(messages) == expected(log, 4)
    everything = [one for ones in messages.values() for one in ones]
    assert all(one.timestamp_ms >= started - 1000 for one in everything)  # the message's time, not the event's
    source = bytes.fromhex(source_name(BehaviorLog(log, {})).removeprefix("log:"))
    assert sorted(row_of(one.headers, source) or 0 for one in everything) == list(range(45_000))
    assert b"null" not in everything[0].value
    assert b'"scene"' not in everything[0].value

    again = produce(topics, log)
    assert (again.new, again.rows) == (0, 45_000)
    assert contents(topics) == messages


def test_killed_at_any_moment_and_run_again_each_partition_is_the_same(
    topics: KafkaSettings, kafka: KafkaSettings, tmp_path: Path
) -> None:
    log = write_log(tmp_path / "log.csv", 40_000 if SOAK else 20_000)
    calm = msgspec.structs.replace(topics, prefix=f"calm{topics.prefix}")
    create_topics(calm)
    produce(calm, log)

    line, environment = command(
        topics, "replay", log, "--kafka", "--rate", "6000/s"
    )  # slow beside the time that a look takes
    killed, chosen = 0, moments()
    for wanted in (1, 8_000, 16_000, 26_000) if SOAK else (1, 5_000, 10_000):
        process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and count(topics) < wanted:
            time.sleep(0.01)
        time.sleep(chosen.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        killed += process.wait(60) == -signal.SIGKILL
    assert killed >= 3
    last = interestream(topics, "replay", log, "--kafka")
    assert last.returncode == 0, last.stderr
    told = [{p: [(m.key, m.value, m.headers) for m in ones] for p, ones in contents(s).items()} for s in (calm, topics)]
    assert told[0] == told[1]


def count(settings: KafkaSettings) -> int:
    while True:
        try:
            with ReplayCheckpoint(settings, "only-asks") as checkpoint:
                return sum(checkpoint.ends(checkpoint.target(Topics(settings.prefix).behaviors)).values())
        except Exception as error:
            if not is_retriable(error):  # a busy broker may take longer than one question may
                raise


def test_without_its_mark_a_log_is_found_by_reading_the_topic_back(topics: KafkaSettings, tmp_path: Path) -> None:
    """As after offsets.retention.minutes: Kafka has dropped the commits, the messages are still there."""
    log = write_log(tmp_path / "log.csv", 3000)
    produce(topics, log)
    before = contents(topics)
    source = source_name(BehaviorLog(log, {})).removeprefix("log:")
    with ReplayCheckpoint(topics, f"{topics.prefix}replay-{source}") as checkpoint:
        checkpoint._admin.delete_groups([f"{topics.prefix}replay-{source}"])
        assert checkpoint.read(checkpoint.target(Topics(topics.prefix).behaviors))[1] == {}
    assert produce(topics, log).new == 0
    assert contents(topics) == before


def test_appended_rows_go_on_and_another_log_goes_beside(topics: KafkaSettings, tmp_path: Path) -> None:
    log, other = write_log(tmp_path / "log.csv", 2000, shuffled=False), tmp_path / "other.csv"
    other.write_text(f"user_id,item_id,rating,timestamp\nsomebody,1,5,{AT}\n")
    produce(topics, log)
    assert produce(topics, other).new == 1
    with log.open("a") as file:
        file.write(f"u1,499,5,{AT + 5000}\nbroken,,,\n")
    more = produce(topics, log)
    assert more.rejects is not None
    assert (more.new, more.rejects.count) == (1, 1)
    assert "item_id" in more.rejects.path.read_text()
    assert sum(map(len, contents(topics).values())) == 2002


@pytest.mark.parametrize("change", ["a row left out", "a row altered", "cut short"])
def test_a_log_that_changed_is_refused(topics: KafkaSettings, tmp_path: Path, change: str) -> None:
    log = write_log(tmp_path / "log.csv", 2000, shuffled=False)
    produce(topics, log)
    before = contents(topics)
    lines = log.read_text().splitlines()
    if change == "a row left out":
        del lines[500]
        lines.append(f"u1,1,1,{AT + 9999}")
    elif change == "a row altered":
        lines[500] = "somebody" + lines[500][lines[500].index(",") :]
    else:
        del lines[1500:]
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="is not what it was"):
        produce(topics, log)
    assert contents(topics) == before


def test_a_row_that_differs_from_what_was_read_back_is_refused(topics: KafkaSettings, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 500, shuffled=False)
    produce(topics, log)
    group = f"{topics.prefix}replay-{source_name(BehaviorLog(log, {})).removeprefix('log:')}"
    with ReplayCheckpoint(topics, group) as checkpoint:
        checkpoint._admin.delete_groups([group])
    lines = log.read_text().splitlines()
    lines[-1] = lines[-1].rsplit(",", 2)[0] + f",2.5,{AT + 500 / 7}"
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="row 499 is not what was produced"):
        produce(topics, log)


def test_two_runs_of_one_log_are_noticed(topics: KafkaSettings, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 100_000, shuffled=False)

    async def both() -> list[Any]:
        first = LogProducer(settings=topics, log=BehaviorLog(log, {}), rate=Rate(per_s=500))
        running = asyncio.create_task(first.run())
        while not first._new:
            await asyncio.sleep(0.05)
        second = await asyncio.gather(
            LogProducer(settings=topics, log=BehaviorLog(log, {})).run(), return_exceptions=True
        )
        first.stop.set()
        return [await running, *second]

    first, second = asyncio.run(both())
    assert isinstance(second, KafkaError)
    assert "another run is producing" in str(second)
    assert not first.ended
    assert sum(map(len, contents(topics).values())) == first.new == first.rows


def test_a_run_whose_log_was_taken_over_stops(topics: KafkaSettings, tmp_path: Path) -> None:
    """A producer that was frozen, counted as dead, and woke up."""
    log = write_log(tmp_path / "log.csv", 100_000, shuffled=False)
    source = source_name(BehaviorLog(log, {})).removeprefix("log:")

    async def taken_over() -> None:
        first = LogProducer(settings=topics, log=BehaviorLog(log, {}), rate=Rate(per_s=500))
        running = asyncio.create_task(first.run())
        while not first._new:
            await asyncio.sleep(0.05)
        with ReplayCheckpoint(topics, f"{topics.prefix}replay-{source}") as checkpoint:
            target = checkpoint.target(Topics(topics.prefix).behaviors)
            progress, offsets = checkpoint.read(target)
            checkpoint.write(target, msgspec.structs.replace(progress, run="another"), offsets)
        await running

    with pytest.raises(KafkaError, match="another run has begun"):
        asyncio.run(taken_over())


def test_a_missing_topic_is_told(kafka: KafkaSettings, tmp_path: Path) -> None:
    with pytest.raises(KafkaError, match="run `interestream topics create`"):
        produce(kafka, write_log(tmp_path / "log.csv", 20))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--kafka", "--partition", "20"], "INTERESTREAM_INGEST_COUNT"),
        (["--kafka", "--no-llm"], "makes no sense with --kafka"),
        (["--kafka", "--users-limit", "3"], "the agent follows every user"),
        (["--kafka", "--rate", "fast"], "give max"),
        (["--rate", "10x"], "--rate is for --kafka"),
        (["--llm", "nowhere"], "no language model at nowhere; .*; --no-llm closes partitions alone"),
        (["--llm", "statistics", "--prompt-version", "plain-9"], "no prompt version 'plain-9'"),
    ],
)
def test_options_that_make_no_sense_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], told: str
) -> None:
    log = write_log(tmp_path / "log.csv", 20)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=told):
        app(["replay", str(log), *options], standalone_mode=False)


def test_a_broker_that_comes_late_is_waited_for(own_node: Node, tmp_path: Path) -> None:
    """And one that is restarted in the middle: no row is lost and none comes twice."""
    node, log = own_node, write_log(tmp_path / "log.csv", 8_000)
    settings = KafkaSettings(brokers=node.bootstrap, partitions=2)
    warned: list[str] = []

    async def run() -> Produced:
        producer = LogProducer(settings=settings, log=BehaviorLog(log, {}), rate=Rate(per_s=2000), warn=warned.append)
        running = asyncio.create_task(producer.run())
        while not warned:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(node.start)
        while producer._new < 3000:
            await asyncio.sleep(0.05)
            assert not running.done()
        await asyncio.to_thread(node.kill)
        await asyncio.to_thread(node.start)
        return await running

    create_topics(settings)  # before the producer asks for them
    node.kill()
    assert asyncio.run(run()).new == 8_000
    assert "no Kafka answers" in warned[0]
    assert "Ctrl-C" in warned[0]
    assert decoded(contents(settings)) == expected(log, 2)


def test_ctrl_c_keeps_what_was_sent_and_the_same_command_goes_on(topics: KafkaSettings, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", 30_000, shuffled=False)
    line, environment = command(topics, "replay", log, "--kafka", "--rate", "2000/s")
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None and count(topics) < 2000:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "behaviours produced" in out
    assert "the same command goes on from there" in err
    done = count(topics)
    assert 2000 <= done < 30_000
    refused = interestream(topics, "replay", log, "--kafka", "--no-resume")
    assert refused.returncode == 2
    assert f"up to row {done:,}" in refused.stderr
    rest = interestream(topics, "replay", log, "--kafka")
    assert f"{30_000 - done:,} behaviours produced" in rest.stdout
    assert decoded(contents(topics)) == expected(log, 4)


def test_the_catalogue_goes_to_its_topics_before_the_log(topics: KafkaSettings, sample_log: Path) -> None:
    done = interestream(
        topics, "replay", sample_log / "ml-100k.inter", "--kafka",
        "--items", sample_log / "ml-100k.item", "--users", sample_log / "ml-100k.user",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1,682 items" in done.stdout
    assert "100,000 behaviours produced" in done.stdout
    items = [one for ones in read_all(topics, Topics(topics.prefix).items).values() for one in ones]
    users = [one for ones in read_all(topics, Topics(topics.prefix).users).values() for one in ones]
    made = {one.key.decode(): msgspec.json.decode(one.value, type=Item) for one in items}
    assert made["1"].item_id == "1"
    assert made["1"].title.startswith("Toy Story")
    people = {one.key.decode(): msgspec.json.decode(one.value, type=User) for one in users}
    assert people["1"].attributes["occupation"] == "technician"
    behaviors = [one for ones in contents(topics).values() for one in ones]
    assert len(behaviors) == 100_000
    assert max(one.timestamp_ms for one in items + users) <= min(one.timestamp_ms for one in behaviors)


def test_a_log_of_offers_sends_its_items_before_what_was_offered(topics: KafkaSettings, tmp_path: Path) -> None:
    truth = plant(0, users=4, each=12)
    truth.write(tmp_path / "antm2c.csv")
    done = interestream(topics, "replay", tmp_path / "antm2c.csv", "--kafka")
    assert done.returncode == 0, done.stderr
    items = [one for ones in read_all(topics, Topics(topics.prefix).items).values() for one in ones]
    made = {one.key.decode(): msgspec.json.decode(one.value, type=Item) for one in items}
    assert {key for key in made if ":" not in key} == {truth.items[place] for place in truth.item}
    first = truth.titles[int(truth.item[0])]
    assert made[truth.items[int(truth.item[0])]].attributes == {"item_entity_names": first.split()[0]}
    sent = [msgspec.json.decode(one.value, type=Behavior) for ones in contents(topics).values() for one in ones]
    assert sum(one.action == OFFERED for one in sent) == int((truth.label == 0).sum())
    assert sum(one.action == "click" for one in sent) == int(truth.label.sum())
    assert {one.item_id for one in sent if one.action == "pay"} == {f"pay:{best} shop" for best, _ in truth.likes}
    assert {made[f"pay:{best} shop"].title for best, _ in truth.likes} == {f"{best} shop" for best, _ in truth.likes}


def test_the_partitioner_is_kafkas_own() -> None:
    theirs, ours = DefaultPartitioner(), Partitioner(7)
    for key in ["", "1", "user", "größer", "a" * 100, *map(str, range(500))]:
        assert ours[key] == theirs(key.encode(), list(range(7)), [])


def test_a_header_of_another_shape_is_not_ours() -> None:
    assert row_of(((HEADER, b"12345678" + (5).to_bytes(8, "big")),), b"12345678") == 5
    assert row_of(((HEADER, b"12345678" + (5).to_bytes(8, "big")),), b"other...") is None
    assert row_of(((HEADER, b"short"), ("trace", b"x")), b"12345678") is None
