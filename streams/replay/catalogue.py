"""Produces items and user profiles to their compacted topics, so that they are there before the behaviours are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from interest.types import Item, User
from streams.kafka.clients import KafkaError, check_reachable, make_producer
from streams.kafka.partitioner import Partitioner
from streams.kafka.topics import Topics
from streams.settings.schema import KafkaSettings


async def produce_catalogue(settings: KafkaSettings, chunks: Iterable[Sequence[Item | User]]) -> int:
    """Send every item to the topic of items, every user to that of users; return how many once all are acknowledged.

    Sent again they change nothing: a consumer replaces an id's value with the newest. Raises KafkaError if the topic is
    missing, and whatever its client does while the broker is away.
    """
    count = 0
    check_reachable(settings)
    producer = make_producer(settings)
    try:
        await producer.start()
        for chunk in chunks:
            if not chunk:
                continue
            topic, partitioner = await _target(settings, producer, chunk[0])
            waiting = [
                await producer.send(topic, msgspec.json.encode(one), key=key.encode(), partition=partitioner[key])
                for one in chunk
                for key in [one.item_id if isinstance(one, Item) else one.user_id]
            ]
            await asyncio.gather(*waiting)
            count += len(chunk)
    finally:
        await producer.stop()
    return count


async def _target(settings: KafkaSettings, producer: Any, first: Item | User) -> tuple[str, Partitioner]:
    topics = Topics(settings.prefix)
    topic = topics.items if isinstance(first, Item) else topics.users
    # asked of the client and not of its partitions_for(), which waits for ever for a topic that is not there
    known = (await producer.client.fetch_all_metadata()).partitions_for_topic(topic)
    if not known:
        raise KafkaError(f"there is no topic {topic}; run `interestream topics create`")
    return topic, Partitioner(len(known))
