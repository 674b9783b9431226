"""Resolves where a subscription starts: offsets by partition, asked of Kafka once, before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from interest.errors import InputError
from streams.kafka.clients import KafkaError, admin
from streams.kafka.partitioner import Partitioner
from streams.settings.schema import KafkaSettings

if TYPE_CHECKING:
    from kafka import KafkaAdminClient, TopicPartition

Positions: TypeAlias = dict[int, int]  # Kafka partition -> the offset of the next message
Start: TypeAlias = Literal["beginning", "now"] | datetime | float | Mapping[int, int]


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """By Kafka partition, where to start, and the offset after the last message at that moment."""

    starts: Positions
    ends: Positions


def resolve_start(
    settings: KafkaSettings, topic: str, start: Start, users: Iterable[str] | None, group: str | None
) -> OffsetRange:
    """Resolve `start` for every partition, or for those of `users` where no group shares them out.

    A group goes on from what it has committed; where it has nothing, `start` is committed for it, so that every member
    begins at the same offset. A moment means the first message that was produced then or later. Raises KafkaError for
    a missing topic and for a position that retention has passed.
    """
    from kafka import TopicPartition
    from kafka.admin import OffsetSpec

    with admin(settings) as client:
        count = len(client.describe_topics([topic])[0]["partitions"])
        if not count:
            raise KafkaError(f"there is no topic {topic}; run `interestream topics create`")
        wanted: Iterable[int] = range(count)
        if users is not None and group is None:
            partitioner = Partitioner(count)
            wanted = sorted({partitioner[user] for user in users})
        partitions = [TopicPartition(topic, number) for number in wanted]
        beginnings = _offsets(client, dict.fromkeys(partitions, OffsetSpec.EARLIEST))
        ends = _offsets(client, dict.fromkeys(partitions, OffsetSpec.LATEST))
        starts = _starts(client, start, partitions, beginnings, ends)
        if group is not None:
            starts = _committed(client, group, starts)
    for tp, offset in starts.items():
        if offset < beginnings[tp]:
            raise KafkaError(
                f"{topic}[{tp.partition}] begins at offset {beginnings[tp]:,} now: the messages from "
                f"{offset:,} on, where this subscription was, were removed by retention. "
                "Begin anew: from the beginning, from now, or with another group"
            )
        if offset > ends[tp]:
            raise KafkaError(
                f"{topic}[{tp.partition}] ends at offset {ends[tp]:,}, and this subscription was at "
                f"{offset:,}: the topic was made again. Begin anew, with another group if it has one"
            )
    return OffsetRange(*({tp.partition: offset for tp, offset in offsets.items()} for offsets in (starts, ends)))


def _starts(
    client: KafkaAdminClient,
    start: Start,
    partitions: list[TopicPartition],
    beginnings: dict[TopicPartition, int],
    ends: dict[TopicPartition, int],
) -> dict[TopicPartition, int]:
    if start == "beginning":
        return beginnings
    if start == "now":
        return ends
    if isinstance(start, Mapping):
        return {tp: start.get(tp.partition, beginnings[tp]) for tp in partitions}
    if isinstance(start, datetime) and start.tzinfo is None:
        raise InputError(f"the start {start} has no time zone; give it one, e.g. datetime(2026, 1, 31, tzinfo=UTC)")
    seconds = start.timestamp() if isinstance(start, datetime) else float(start)
    if seconds < 0:
        raise InputError(f"the start {start} is before 1970")
    by_time = _offsets(client, dict.fromkeys(partitions, int(seconds * 1000)))
    return {tp: offset if (offset := by_time[tp]) >= 0 else ends[tp] for tp in partitions}


def _committed(client: KafkaAdminClient, group: str, starts: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
    from kafka import OffsetAndMetadata
    from kafka.errors import NoError

    committed = client.list_group_offsets({group: list(starts)})[group]
    known = {tp: answer.offset for tp, answer in committed.items() if answer.offset >= 0}
    new = {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in starts.items() if tp not in known}
    for error in client.alter_group_offsets(group, new).values() if new else ():
        if error is not NoError:
            raise error(f"the group {group} cannot be given a position")  # it has members: they do it, or have done it
    return starts | known


def _offsets(client: KafkaAdminClient, asked: Mapping[TopicPartition, Any]) -> dict[TopicPartition, int]:
    return {tp: answer.offset for tp, answer in client.list_partition_offsets(dict(asked)).items()}
