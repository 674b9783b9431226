"""Topics as they are now: their ids, and where their partitions begin and end."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from streams.kafka.clients import admin
from streams.kafka.errors import RefusedError
from streams.kafka.provision import offset_ranges, read_topics
from streams.settings.schema import KafkaSettings
from streams.stages.consumer.assignment import TopicState


class TopicOffsets(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as it is."""

    name: str
    id: str
    ranges: dict[int, tuple[int, int]]  # start and end offset of each partition

    @property
    def state(self) -> TopicState:
        return TopicState(self.id, len(self.ranges))


def read_topic_offsets(settings: KafkaSettings, names: Sequence[str]) -> dict[str, TopicOffsets]:
    """The topics as they are. Raises RefusedError for one that is not there, KafkaError where nobody answers."""
    with admin(settings) as client:
        found = read_topics(client, names)
        missing = [name for name in names if name not in found]
        if missing:
            raise RefusedError(
                f"there is no topic {', '.join(missing)} at {settings.brokers}: run `interestream topics create`"
            )
        ranges = offset_ranges(client, found.values())
    return {
        name: TopicOffsets(
            name=name, id=topic.id, ranges={one: ranges[name, one] for one in range(topic.partitions)}
        )
        for name, topic in found.items()
    }  # fmt: skip
