"""Joins a consumer group whose offsets are in the store: what is given stays paused until the stage has sought."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from streams.kafka.clients import group_of, make_consumer
from streams.stages.ingest.batch import KafkaPartition
from streams.stages.retry import connected
from streams.stages.stage import Context

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition

FETCH_BYTES = 4_194_304  # of one partition in one fetch: 20,000 messages


async def join(
    context: Context,
    stage: str,
    topics: Sequence[str],
    revoked: Callable[[], Awaitable[None]],
    assigned: Callable[[], None],
) -> AIOKafkaConsumer:
    """A started consumer; `revoked` is awaited before partitions are taken, `assigned` is called once they are given.

    The range assignor gives one worker the same partition numbers of all topics.
    """
    from aiokafka.abc import ConsumerRebalanceListener
    from aiokafka.coordinator.assignors.range import RangePartitionAssignor

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
        async def on_partitions_revoked(self, _revoked: set[Any]) -> None:
            await revoked()

        async def on_partitions_assigned(self, given: set[Any]) -> None:
            assigned()
            consumer.pause(*given)

    settings = context.settings.kafka
    consumer = await connected(
        context,
        stage,
        lambda: make_consumer(
            settings,
            group=group_of(settings, stage),
            partition_assignment_strategy=(RangePartitionAssignor,),
            max_partition_fetch_bytes=FETCH_BYTES,
        ),
    )
    consumer.subscribe(list(topics), listener=Listener())
    return consumer


def topic_partition(place: KafkaPartition) -> TopicPartition:
    """aiokafka's own kind: where its code asks for the type, an equal tuple does not do."""
    from aiokafka import TopicPartition

    return TopicPartition(*place)
