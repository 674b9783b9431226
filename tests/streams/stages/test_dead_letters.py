"""Burying a flood: every letter on the broker and counted, the log short."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from streams.kafka.clients import make_producer
from streams.stages.dead_letters import REASONS, TOLD, send_to_dead_letter
from streams.stages.retry import RetryPolicy
from tests.support.stage_rig import in_loop, letters, make_context, make_topics

FLOOD = 2_500  # more than one round of letters under way


def refused(topic: str, count: int, kinds: int) -> list:
    return [
        (
            SimpleNamespace(topic=topic, partition=0, offset=offset, timestamp=1, key=b"u", value=b"%d" % offset),
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
            await send_to_dead_letter(
                context, RetryPolicy(context, "ingest"), producer, refused(topics.behaviors, FLOOD, kinds)
            )
    assert {one.offset for one in await letters(kafka, topics.behaviors)} == set(range(FLOOD))
    name = "interestream_dead_letters_total"
    assert context.metrics.registry.get_sample_value(name, {"topic": topics.behaviors}) == FLOOD
    *each, rest = said
    assert len(each) == TOLD
    assert {one["event"] for one in each} == {"dead letter"}
    assert all(one["reason"] == f"reason {one['offset'] % kinds}" and one["topic"] == topics.behaviors for one in each)
    assert (rest["event"], rest["count"]) == ("more dead letters", FLOOD - TOLD)
    assert len(rest["reasons"]) == min(kinds, REASONS)
    assert sum(rest["reasons"].values()) + rest["other"] == FLOOD - TOLD
    assert all(reason.startswith(f"{topics.behaviors}: reason ") for reason in rest["reasons"])


@in_loop
async def test_few_letters_have_a_line_each(kafka, store):
    topics = make_topics(kafka)
    context = make_context(store, kafka)
    async with make_producer(kafka) as producer:
        with capture_logs() as said:
            await send_to_dead_letter(context, RetryPolicy(context, "ingest"), producer, refused(topics.items, TOLD, 1))
            await send_to_dead_letter(context, RetryPolicy(context, "ingest"), producer, [])
    assert [one["event"] for one in said] == ["dead letter"] * TOLD
