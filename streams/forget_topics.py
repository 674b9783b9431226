"""Forgetting a user on the topics: tombstones where Kafka keeps the last message of each key, discards in the dead
letters, and the plain word about the logs, of which Kafka cannot take single messages out.
"""

from __future__ import annotations

import msgspec

from streams.dead_letters import discard, open_letters
from streams.kafka import KafkaError, Topics, asking, sending
from streams.settings import KafkaSettings
from streams.topics import DAY_MS, read_topics

ACK_S = 30.0


class ForgottenOnTopics(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, and what only time does."""

    tombstones: dict[str, int]  # by compacted topic, how many partitions got one
    letters: int  # dead letters with the user's key, discarded
    held: dict[str, float | None]  # logs that hold the user's messages still: days at most; none: for ever


def forget_on_topics(settings: KafkaSettings, user_id: str) -> ForgottenOnTopics:
    """Send tombstones for the user's key; may be repeated. Raises KafkaError where not all are acknowledged.

    Every partition of a compacted topic gets one: where a user's messages lie is for the producer's partitioner to
    say, and was another partition before the topic grew. A tombstone for a key that is not there does nothing.
    """
    topics = Topics(settings.prefix)
    compacted = (topics.users, topics.latest, topics.representations)
    logs = (topics.behaviors, topics.partitions, topics.updates)
    key = user_id.encode()
    with asking(settings) as client:
        found = read_topics(client, [*compacted, *logs])
    with sending(settings) as producer:
        waiting = [
            producer.send(name, None, key=key, partition=partition)
            for name in compacted
            if name in found
            for partition in range(found[name].partitions)
        ]
        producer.flush(timeout=ACK_S)
        for future in waiting:
            future.get(timeout=ACK_S)
    letters = [letter for letter in open_letters(settings) if letter.key == key and letter.topic != topics.items]
    if letters:
        discard(settings, letters)
    return ForgottenOnTopics(
        tombstones={name: found[name].partitions for name in compacted if name in found},
        letters=len(letters),
        held={name: _days(found[name].retention_ms) for name in logs if name in found},
    )


def again(error: KafkaError) -> KafkaError:
    """The error of a forget that the topics did not hear of."""
    return KafkaError(
        f"the store has forgotten the user, the topics have not: {error}. Run the same command again once Kafka answers"
    )


def _days(retention_ms: int | None) -> float | None:
    """Kafka deletes whole segments, of a day at most (streams/topics.py)."""
    return None if retention_ms is None else round(retention_ms / DAY_MS + min(1.0, retention_ms / DAY_MS), 2)
