"""What one rebalance gave a worker: Kafka partitions, where reading goes on in each, and whether that still holds.

Pure values; the consumer makes one for each rebalance and is the only one to change it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar


class KafkaPartition(NamedTuple):
    """A partition of a topic; aiokafka's TopicPartition is equal to it."""

    topic: str
    partition: int


class TopicState(NamedTuple):
    """By what a topic is known again: one that was made anew has another id."""

    id: str
    partitions: int


class Offsets(Protocol):
    """The offsets of one assignment; what else it knows of its partitions is the strategy's."""

    @property
    def start(self) -> Mapping[KafkaPartition, int]:
        """Where reading goes on, in each partition of the assignment."""

    @property
    def end(self) -> Mapping[KafkaPartition, int]:
        """Where each partition ended when the offsets were read."""

    @property
    def topics(self) -> Mapping[str, TopicState]:
        """The topics that these offsets are of."""

    def committable(self) -> Mapping[KafkaPartition, tuple[int, str]]:
        """What the group may be told: every offset before it is done with; and the commit's metadata."""


O_co = TypeVar("O_co", bound=Offsets, covariant=True)
O = TypeVar("O", bound=Offsets)  # noqa: E741  offsets


class OffsetStorage(Protocol[O_co]):
    """Where a stage's offsets live: the strategy that a consumer is made with."""

    async def read(self, assigned: tuple[KafkaPartition, ...]) -> O_co:
        """The offsets of the partitions; waits for Kafka and the store as long as it takes.

        Raises RefusedError where going on would pass over messages, or take another topic's messages for this one's.
        """


@dataclass(slots=True, eq=False)
class Assignment(Generic[O]):
    """Work begun under an assignment is void once it is `revoked`."""

    generation: int  # counts rebalances
    offsets: O
    ends: dict[KafkaPartition, int] = field(default_factory=dict)  # where the partitions end, as last asked
    releasing: bool = False  # a rebalance has begun: nothing more is read; what is in flight may be finished
    revoked: bool = False  # the partitions are another worker's, or their offsets must be read anew

    def is_open(self) -> bool:
        return not (self.releasing or self.revoked)

    @property
    def partitions(self) -> list[KafkaPartition]:
        return sorted(self.offsets.start)
