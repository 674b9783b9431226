"""Every topic of an installation, a row each: name, key, clean-up, messages, schema, and who reads it.

Creation, schemas, lag, dead letters, acceptance and forgetting read from these rows, so adding a topic is one row here.
Knows no client of Kafka.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, overload

import msgspec

from interest.types import Behavior, Item, Partition, User
from streams.kafka.messages import InterestUpdate, RepresentationUpdate

DELETE, COMPACT, BOTH = ("delete",), ("compact",), ("compact", "delete")
DEAD = ".dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpec:
    """One topic. As an attribute of an instance of `Topics` it is the topic's full name, prefix included."""

    name: str  # without the installation's prefix
    key: Literal["user_id", "item_id"]  # all topics keyed by user_id have one number of partitions
    cleanup: tuple[str, ...]  # Kafka's cleanup.policy: DELETE after the retention, or COMPACT to the newest of each key
    message: type[msgspec.Struct]
    about: str  # what its published schema says beside the message's fields
    schema: bool = True  # whether deploy/schemas has a file for it; False: the file of the topic that `about` names
    stage: str | None = None  # the stage that consumes it; its unusable messages go to `<topic>.dead`
    subscribed: bool = False  # whether `streams.subscribe` reads it

    @property
    def is_compacted(self) -> bool:
        return "compact" in self.cleanup

    @overload
    def __get__(self, topics: None, owner: type[Topics]) -> Self: ...
    @overload
    def __get__(self, topics: Topics, owner: type[Topics]) -> str: ...
    def __get__(self, topics: Topics | None, owner: type[Topics]) -> Any:
        return self if topics is None else topics.prefix + self.name


@dataclass(frozen=True)
class Topics:
    """The topics of an installation: `Topics(prefix).behaviors` is a full name, `Topics.behaviors` the row."""

    prefix: str = ""

    behaviors = TopicSpec(
        name="behaviors",
        key="user_id",
        cleanup=DELETE,
        message=Behavior,
        about="Key: user_id in UTF-8. Produce to it; what cannot be used goes to behaviors.dead.",
        stage="ingest",
    )
    items = TopicSpec(
        name="items",
        key="item_id",
        cleanup=COMPACT,
        message=Item,
        about="Key: item_id in UTF-8. Compacted: the newest message of an item counts.",
        stage="ingest",
    )
    users = TopicSpec(
        name="users",
        key="user_id",
        cleanup=COMPACT,
        message=User,
        about="Key: user_id in UTF-8. Compacted: the newest message of a user counts, a null value removes it.",
        stage="ingest",
    )
    partitions = TopicSpec(
        name="partitions",
        key="user_id",
        cleanup=DELETE,
        message=Partition,
        about="Key: user_id in UTF-8. Announced after the store holds the partition.",
        stage="interest",
    )
    updates = TopicSpec(
        name="interest-updates",
        key="user_id",
        cleanup=DELETE,
        message=InterestUpdate,
        about="Key: user_id in UTF-8. The compacted topic interest-latest carries the same messages, each user's "
        "newest; a null value there: the user was forgotten.",
        stage="fusion",
        subscribed=True,
    )
    latest = TopicSpec(
        name="interest-latest",
        key="user_id",
        cleanup=COMPACT,
        message=InterestUpdate,
        about="See interest-updates.",
        schema=False,
        subscribed=True,
    )
    representations = TopicSpec(
        name="representations",
        key="user_id",
        cleanup=COMPACT,
        message=RepresentationUpdate,
        about="Key: user_id in UTF-8. Compacted: each user's newest vector; a null value: the user was forgotten.",
        subscribed=True,
    )

    @property
    def consumed(self) -> tuple[str, ...]:
        """Topics that a stage reads, whose messages may turn out unusable; each has a topic of dead letters."""
        return tuple(self.prefix + spec.name for spec in SPECS if spec.stage)

    def read_by(self, stage: str) -> tuple[str, ...]:
        """The topics that a stage consumes."""
        return tuple(self.prefix + spec.name for spec in SPECS if spec.stage == stage)

    def of_users(self, *, compacted: bool) -> tuple[str, ...]:
        """The topics keyed by user_id that are compacted, or that are not."""
        return tuple(
            self.prefix + spec.name for spec in SPECS if spec.key == "user_id" and spec.is_compacted is compacted
        )

    def spec_of(self, topic: str) -> TopicSpec | None:
        """The row of a topic by its full name; None for a topic that is not the installation's."""
        return next((spec for spec in SPECS if self.prefix + spec.name == topic), None)


SPECS = tuple(spec for spec in vars(Topics).values() if isinstance(spec, TopicSpec))
STAGES = tuple(dict.fromkeys(spec.stage for spec in SPECS if spec.stage))  # in the order in which data flows


def dead_of(topic: str) -> str:
    """The topic of a topic's dead letters."""
    return topic + DEAD
