"""Why the stage that reads a topic would refuse a message: the stages' own functions, asked without Kafka or store.

What only the store can refuse (a row that it does not take, a partition that it does not have) is not found out here.
"""

from __future__ import annotations

import msgspec

from streams.kafka.messages import Refusal, behavior_of_message, partition_of_message, update_of_message
from streams.kafka.topics import Topics
from streams.stages.consumer.message import decoded_value
from streams.stages.ingest.catalogue import item_changes, user_changes


class ConsumedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as a consumer would get it."""

    topic: str  # full name, with the prefix
    key: bytes | None
    value: bytes | None
    timestamp: int  # ms; the message's own time
    partition: int = 0
    offset: int = 0


def refusal(topics: Topics, message: ConsumedMessage) -> str | None:
    """The reason, as a dead letter would have it; None for a message that is what its topic carries."""
    if message.topic == topics.behaviors:
        found = behavior_of_message(message.key, message.value, message.timestamp / 1000)
        return found.reason if isinstance(found, Refusal) else None
    if message.topic in (topics.items, topics.users):
        changes = (item_changes if message.topic == topics.items else user_changes)([message], {})
        return changes.refused[0][1] if changes.refused else None
    _, reason = decoded_value(
        message, partition_of_message if message.topic == topics.partitions else update_of_message
    )
    return reason
