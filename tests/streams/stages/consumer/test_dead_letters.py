"""The one writer of dead letters: a flood is all on the broker and a few lines of the log; what is too large is cut."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kafka.admin import NewTopic
from structlog.testing import capture_logs

from streams.kafka.clients import admin, make_producer
from streams.kafka.dead_letter import MAX_EXCERPT
from streams.kafka.topics import dead_of
from streams.stages.consumer.dead_letters import LOG_EVERY_S, LOGGED, REASONS, DeadLetterWriter
from tests.support.stage_rig import in_loop, letters, make_context, make_topics

FLOOD = 2_500  # more than one round of letters under way


def refused(topic: str, count: int, kinds: int, size: int = 0) -> list:
    return [
        (
            SimpleNamespace(
                topic=topic, partition=0, offset=offset, timestamp=1, key=b"u", value=b"%d" % offset + b" " * size
            ),
            f"reason {offset % kinds}",
        )
        for offset in range(count)
    ]


@pytest.mark.parametrize("kinds", [2, REASONS + 40])
@in_loop
async def test_a_flood_is_a_few_lines_of_the_log_and_all_of_it_on_the_broker(kafka, store, kinds):
    topics = make_topics(kafka)
    context = make_context(store, kafka)
    async with make_producer(kafka) as producer:
        with capture_logs() as said:
            await DeadLetterWriter(context, "ingest", producer).send(refused(topics.behaviors, FLOOD, kinds))
    assert {one.offset for one in await letters(kafka, topics.behaviors)} == set(range(FLOOD))
    name = "interestream_dead_letters_total"
    assert context.metrics.registry.get_sample_value(name, {"topic": topics.behaviors}) == FLOOD
    *each, rest = said
    assert len(each) == LOGGED
    assert {one["event"] for one in each} == {"dead letter"}
    assert all(one["reason"] == f"reason {one['offset'] % kinds}" and one["topic"] == topics.behaviors for one in each)
    assert (rest["event"], rest["count"]) == ("more dead letters", FLOOD - LOGGED)
    assert len(rest["reasons"]) == min(kinds, REASONS)
    assert sum(rest["reasons"].values()) + rest["other"] == FLOOD - LOGGED
    assert all(reason.startswith(f"{topics.behaviors}: reason ") for reason in rest["reasons"])


@in_loop
async def test_a_flood_over_many_batches_is_a_few_lines_a_minute(kafka, store):
    """As the interest and fusion stages meet it: a window of messages at a time."""
    topics = make_topics(kafka)
    now = [1000.0]
    async with make_producer(kafka) as producer:
        writer = DeadLetterWriter(make_context(store, kafka), "interest", producer, clock=lambda: now[0])
        with capture_logs() as said:
            for _ in range(30):
                await writer.send(refused(topics.partitions, 10, 1))
                now[0] += 1.0
            assert [one["event"] for one in said] == ["dead letter"] * LOGGED + ["more dead letters"]
            now[0] += LOG_EVERY_S
            writer.log_rest()
            writer.log_rest()  # nothing more to tell
            await writer.send(refused(topics.partitions, 1, 1))
            await writer.send([])
            writer.close()
    assert [one["event"] for one in said[LOGGED + 1 :]] == ["more dead letters", "dead letter"]
    assert sum(one["count"] for one in said if one["event"] == "more dead letters") == 300 - LOGGED


@in_loop
async def test_few_letters_have_a_line_each(kafka, store):
    topics = make_topics(kafka)
    async with make_producer(kafka) as producer:
        writer = DeadLetterWriter(make_context(store, kafka), "ingest", producer)
        with capture_logs() as said:
            await writer.send(refused(topics.items, LOGGED, 1))
            await writer.send([])
            writer.close()
    assert [one["event"] for one in said] == ["dead letter"] * LOGGED


@in_loop
async def test_a_letter_too_large_for_its_topic_is_cut(kafka, store):
    """A topic of dead letters made by others, which takes as little as its topic."""
    topic = f"{kafka.prefix}narrow"
    with admin(kafka) as client:
        narrow = {"max.message.bytes": "20000"}
        client.create_topics([NewTopic(dead_of(topic), num_partitions=1, replication_factor=1, topic_configs=narrow)])
    context = make_context(store, kafka)
    async with make_producer(kafka) as producer:
        await DeadLetterWriter(context, "interest", producer).send(refused(topic, 1, 1, size=50_000))
    (letter,) = await letters(kafka, topic)
    assert (letter.truncated, len(letter.value or b"")) == (50_001, MAX_EXCERPT)
