"""Forgetting a user on the topics: tombstones where Kafka keeps the last message of each key, discards in the dead
letters, and the plain word about the logs, of which Kafka cannot take single messages out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from streams.admin.dead_letters import OpenLetter, discard, open_letters
from streams.kafka.clients import KafkaError, admin_for_command, consumer_for_command, producer_for_command
from streams.kafka.partitioner import Partitioner
from streams.kafka.provision import DAY_MS, read_topics
from streams.kafka.read import read_offset_ranges, read_records
from streams.kafka.topics import Topics
from streams.settings.schema import KafkaSettings

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
    compacted = topics.of_users(compacted=True)
    logs = topics.of_users(compacted=False)
    key = user_id.encode()
    with admin_for_command(settings) as client:
        found = read_topics(client, [*compacted, *logs])
    with producer_for_command(settings) as producer:
        waiting = [
            producer.send(name, None, key=key, partition=partition)
            for name in compacted
            if name in found
            for partition in range(found[name].partitions)
        ]
        producer.flush(timeout=ACK_S)
        for future in waiting:
            future.get(timeout=ACK_S)
    letters = _letters_of_user(settings, key)
    if letters:
        discard(settings, letters)
    return ForgottenOnTopics(
        tombstones={name: found[name].partitions for name in compacted if name in found},
        letters=len(letters),
        held={name: _days_held(found[name].retention_ms) for name in logs if name in found},
    )


def known_on_topics(settings: KafkaSettings, user_id: str, done: Callable[[int], None] = lambda _count: None) -> bool:
    """Whether a compacted topic or an open dead letter has the user's key. `done` hears of messages read.

    A tombstone counts too: a forget that was interrupted may have left partitions without one. The partition of Kafka's
    own partitioner is read first; for a user who is nowhere, every compacted topic is read through.
    """
    topics = Topics(settings.prefix)
    key = user_id.encode()
    if _letters_of_user(settings, key):
        return True
    places = read_offset_ranges(settings, topics.of_users(compacted=True))
    counts = Counter(topic for topic, _ in places)
    likely = {(topic, Partitioner(count)[user_id]) for topic, count in counts.items()}
    with consumer_for_command(settings) as client:
        for some in (likely, places.keys() - likely):
            for record in read_records(client, {place: places[place] for place in some}):
                if record.key == key:
                    return True
                done(1)
    return False


def messages_on_topics(settings: KafkaSettings) -> int:
    """How many messages `known_on_topics` reads at most: a compacted topic holds fewer than its offsets say."""
    compacted = Topics(settings.prefix).of_users(compacted=True)
    return sum(end - start for start, end in read_offset_ranges(settings, compacted).values())


def _letters_of_user(settings: KafkaSettings, key: bytes) -> list[OpenLetter]:
    """Open dead letters with the user's key, about messages that are keyed by user."""
    topics = Topics(settings.prefix)
    by_user = {*topics.of_users(compacted=True), *topics.of_users(compacted=False)}
    return [letter for letter in open_letters(settings) if letter.key == key and letter.topic in by_user]


def topics_not_told(error: KafkaError) -> KafkaError:
    """The error of a forget that the topics did not hear of."""
    return KafkaError(
        f"the store has forgotten the user, the topics have not: {error}. Run the same command again once Kafka answers"
    )


def _days_held(retention_ms: int | None) -> float | None:
    """Kafka deletes whole segments, of a day at most (streams/kafka/provision.py)."""
    return None if retention_ms is None else round(retention_ms / DAY_MS + min(1.0, retention_ms / DAY_MS), 2)
