"""One polled batch of the ingest stage: decoded, folded, and ready to be one transaction. No Kafka client in here."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection

from interest.types import Item, Partition, User
from streams.kafka.messages import encode_message
from streams.kafka.topics import Topics
from streams.observability.metrics import Metrics
from streams.stages.consumer.assignment import KafkaPartition
from streams.stages.consumer.message import Record, Refused
from streams.stages.ingest import catalogue
from streams.stages.ingest.decode import decode
from streams.store.outbox import Announcement
from streams.store.tables import source_of
from streams.ubsp.ingest import Folded, Ingest, Move, Position

SWEPT_N = 8  # a message's own announcements have n 0 and 1; those of sweeps after it begin here


class IngestBatch(msgspec.Struct, kw_only=True):
    """What one transaction will write, and what is said of it afterwards."""

    moves: dict[KafkaPartition, Move]
    messages: dict[str, int] = {}  # by topic
    folded: list[Folded] = []
    swept: list[Partition] = []
    announcements: list[Announcement] = []
    refused: list[Refused] = []
    produced_at: list[int] = []  # for each closed partition, the time (ms) of the message that closed it
    items: dict[str, Item | None] = {}
    users: dict[str, User | None] = {}

    only: tuple[KafkaPartition, int] | None = None  # where the message is, if there is but one

    @property
    def closed(self) -> list[Partition]:
        return [one for folded in self.folded for one in folded.closed] + self.swept

    def verdicts(self, topic: str) -> dict[str, int]:
        """What became of the behaviours; each is counted once."""
        late = sum(folded.late for folded in self.folded)
        return {
            "accepted": sum(folded.accepted for folded in self.folded) - late,
            "late": late,
            "duplicate": sum(folded.duplicates for folded in self.folded),
            "rejected": sum(message.topic == topic for message, _ in self.refused),
        }

    def count_in(self, metrics: Metrics, stage: str, topic: str, seconds: float) -> None:
        """Count what a transaction of `seconds` has written; `topic` is that of the behaviours."""
        metrics.commit.labels(stage).observe(seconds)
        for name, count in self.messages.items():
            metrics.messages.labels(stage, name).inc(count)
        for verdict, count in self.verdicts(topic).items():
            metrics.behaviors.labels(verdict).inc(count)
        for reason, count in Counter(one.reason for one in self.closed).items():
            metrics.closed.labels(str(reason)).inc(count)
        now = time.time()
        for produced_at in self.produced_at:
            metrics.latency.labels(stage).observe(max(0.0, now - produced_at / 1000))

    @property
    def count(self) -> int:
        return sum(self.messages.values())

    def apply(self, connection: Connection) -> None:
        """The catalogue's changes, inside the transaction."""
        catalogue.apply(connection, self.items, self.users)


def build_batch(
    ingest: Ingest,
    topics: Topics,
    polled: Mapping[KafkaPartition, Sequence[Record]],
    ends: Mapping[KafkaPartition, int],
    positions: Mapping[KafkaPartition, Position],
    poison: Mapping[KafkaPartition, Mapping[int, str]],
) -> IngestBatch:
    """Decode and fold what was polled; `ends` are the offsets after it, which may lie after the last message."""
    batch = IngestBatch(moves={})
    behaviors = {
        place: decode(polled.get(place, ()), poison.get(place, {})) for place in ends if place.topic == topics.behaviors
    }
    for place, folded in zip(behaviors, ingest.fold_all([one.behaviors for one in behaviors.values()]), strict=True):
        decoded, before = behaviors[place], positions[place]
        rejected = before.rejected + len(decoded.refused)
        after = folded.after(before, ends[place], rejected=rejected, digest=before.digest)
        batch.moves[place] = _move(place, before, after)
        batch.folded.append(folded)
        batch.refused += decoded.refused
        origins = [decoded.origins[at] for at in folded.closers]
        batch.produced_at += [origin.timestamp for origin in origins]
        offsets = [origin.offset for origin in origins]
        batch.announcements += announce(topics, place.partition, folded.closed, offsets)
    for place in ends:
        if place.topic != topics.behaviors:
            _catalogue(
                batch, topics, place, polled.get(place, ()), ends[place], positions[place], poison.get(place, {})
            )
    for place, messages in polled.items():
        batch.messages[place.topic] = batch.messages.get(place.topic, 0) + len(messages)
    if batch.count == 1:
        ((place, (message,)),) = polled.items()
        batch.only = (place, message.offset)
    return batch


def _catalogue(
    batch: IngestBatch,
    topics: Topics,
    place: KafkaPartition,
    messages: Sequence[Record],
    end: int,
    before: Position,
    poison: Mapping[int, str],
) -> None:
    """Items and users are counted as accepted where they were usable."""
    if place.topic == topics.items:
        items = catalogue.item_changes(messages, poison)
        batch.items |= items.values
        count, refused = items.count, items.refused
    else:
        users = catalogue.user_changes(messages, poison)
        batch.users |= users.values
        count, refused = users.count, users.refused
    batch.refused += refused
    after = msgspec.structs.replace(
        before, offset=end, accepted=before.accepted + count, rejected=before.rejected + len(refused)
    )
    batch.moves[place] = _move(place, before, after)


def _move(place: KafkaPartition, before: Position, after: Position) -> Move:
    return Move(source=source_of(place.topic), partition=place.partition, before=before, after=after)


def announce(
    topics: Topics, partition: int, closed: Sequence[Partition], offsets: Sequence[int], first_n: int = 0
) -> list[Announcement]:
    """The announcements of partitions closed by the messages at `offsets`, in order."""
    made: list[Announcement] = []
    n, last = first_n, -1
    for one, offset in zip(closed, offsets, strict=True):
        n = n + 1 if offset == last else first_n
        last = offset
        made.append(
            Announcement(
                topic=topics.partitions,
                partition=partition,
                offset=offset,
                n=n,
                user_id=one.user_id,
                message=encode_message(one),
            )
        )
    return made


def build_sweep_batch(
    topics: Topics,
    positions: Mapping[KafkaPartition, Position],
    closed: Mapping[KafkaPartition, Sequence[Partition]],
    first_n: Mapping[KafkaPartition, int],
) -> IngestBatch:
    """A sweep's transaction: each place proves that it stands where it did; `first_n` is the first free n there."""
    batch = IngestBatch(moves={})
    for place, partitions in closed.items():
        before = positions[place]
        batch.moves[place] = _move(place, before, before)
        offsets = [before.offset - 1] * len(partitions)
        batch.announcements += announce(topics, place.partition, partitions, offsets, first_n[place])
        batch.swept += partitions
    return batch
