"""Reads topics through, from one offset to another, for commands: no group, no commits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from streams.kafka.clients import KafkaError, admin_for_command, consumer_for_command
from streams.kafka.provision import offset_ranges, read_topics
from streams.settings.schema import KafkaSettings

if TYPE_CHECKING:
    from kafka import KafkaConsumer, TopicPartition

QUIET_S = 20.0  # a topic that is not read to its end and gives nothing for so long: the broker has gone


def read_offset_ranges(settings: KafkaSettings, topics: Sequence[str]) -> dict[tuple[str, int], tuple[int, int]]:
    """Start and end offset of every partition of the topics that are there."""
    with admin_for_command(settings) as client:
        return offset_ranges(client, read_topics(client, topics).values())


def read_records(client: KafkaConsumer, ranges: Mapping[tuple[str, int], tuple[int, int]]) -> Iterator[Any]:
    """Every record from start to end offset of each partition; raises KafkaError when they stop coming."""
    from kafka import TopicPartition

    left: dict[TopicPartition, int] = {
        TopicPartition(*where): end for where, (start, end) in ranges.items() if start < end
    }
    client.assign(list(left))
    client.resume(*left)  # an earlier call for the same partitions paused them
    for where in left:
        client.seek(where, ranges[where.topic, where.partition][0])
    heard = monotonic()
    while left:
        polled = client.poll(timeout_ms=500)
        if polled:
            heard = monotonic()
        elif monotonic() - heard > QUIET_S:
            raise KafkaError(f"no answer for {QUIET_S:.0f} s while reading {next(iter(left)).topic}; run it again")
        for where, found in polled.items():
            if where in left:
                yield from (record for record in found if record.offset < left[where])
        for where in [where for where, end in left.items() if client.position(where) >= end]:
            del left[where]
            client.pause(where)


def newest_offsets(
    settings: KafkaSettings,
    topic: str,
    ranges: Mapping[int, tuple[int, int]],
    keys: Collection[bytes] | None,
    stopped: Callable[[], bool],
) -> dict[tuple[int, bytes], int]:
    """By Kafka partition and key, the offset of the newest message in the ranges, tombstones included: what compaction
    will leave of them. `keys` narrows to these. Holds some 200 bytes a key; a message without key is in no one's way.
    """
    found: dict[tuple[int, bytes], int] = {}
    with consumer_for_command(settings) as client:
        for record in read_records(client, {(topic, partition): places for partition, places in ranges.items()}):
            if record.key is not None and (keys is None or record.key in keys):
                found[record.partition, record.key] = record.offset
            if stopped():
                break
    return found
