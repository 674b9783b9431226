"""How far a log has been produced, kept in Kafka itself: the commits of a consumer group that nobody joins.

The progress says: every one of the log's first `rows` rows is on the topic, and each Kafka partition's messages from
`offsets` on may hold later ones. Its metadata also names the run that wrote it, so that a second producer of the same
log is noticed. Kafka forgets it after offsets.retention.minutes (7 days unless set otherwise); the topic is then read
back from its beginning.
"""

from __future__ import annotations

from typing import Literal, Self

import msgspec

from streams.kafka.clients import KafkaError, UnreachableError, check_reachable, python_options
from streams.settings.schema import KafkaSettings

REQUEST_MS = 5000  # of one question to the broker: long enough for a busy one, and Ctrl-C waits for it


class ReplayProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a log has been produced: the metadata of every partition's commit (its field names are stored)."""

    rows: int = 0  # all rows before this one are acknowledged
    digest: str = ""  # of these rows (streams.files.rows.Digest)
    run: str = ""  # which run wrote it
    beat: int = 0  # grows while that run lives
    state: Literal["running", "ended"] = "ended"
    topic: str  # the topic's id: a topic that was made again has nothing of the log


class Target(msgspec.Struct, frozen=True):
    """The topic to produce to."""

    topic: str
    id: str
    partitions: int


class ReplayCheckpoint:
    """Reads and writes one group's progress; blocking, so used in a thread.

    Made for one question and closed after it (14 ms): kept over an outage of the broker, the client would leak a socket
    with each attempt to connect.
    """

    def __init__(self, settings: KafkaSettings, group: str) -> None:
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError as ClientError

        self._group = group
        check_reachable(settings)
        options = python_options(settings) | {"request_timeout_ms": REQUEST_MS, "bootstrap_timeout_ms": REQUEST_MS}
        try:
            self._admin = KafkaAdminClient(**options)
        except (ClientError, OSError) as error:
            raise UnreachableError(f"Kafka at {settings.brokers} does not answer: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._admin.close()

    def target(self, topic: str) -> Target:
        """The topic as it is. Raises KafkaError if it is not there."""
        described = self._admin.describe_topics([topic])[0]
        if not described["partitions"]:
            raise KafkaError(f"there is no topic {topic}; run `interestream topics create`")
        return Target(topic, str(described["topic_id"]), len(described["partitions"]))

    def read(self, target: Target) -> tuple[ReplayProgress, dict[int, int]]:
        """The progress, and the offset of each partition; an empty one, and no offsets, if nothing was produced."""
        from kafka import TopicPartition

        asked = [TopicPartition(target.topic, partition) for partition in range(target.partitions)]
        committed = self._admin.list_group_offsets({self._group: asked})[self._group]
        offsets = {place.partition: kept.offset for place, kept in committed.items() if kept.offset >= 0}
        if not offsets:
            return ReplayProgress(topic=target.id), {}
        progress = msgspec.json.decode(committed[asked[0]].metadata, type=ReplayProgress)
        if progress.topic != target.id:  # Kafka drops a deleted topic's commits too, though not at once
            return ReplayProgress(topic=target.id), {}
        if len(offsets) != target.partitions:
            raise KafkaError(
                f"{target.topic} has {target.partitions} partitions, and had {len(offsets)} when this log was first "
                "produced to it: its users have moved. Make the topic again to replay the log into it"
            )
        return progress, offsets

    def write(self, target: Target, progress: ReplayProgress, offsets: dict[int, int]) -> None:
        from kafka import OffsetAndMetadata, TopicPartition
        from kafka.errors import NoError

        text = msgspec.json.encode(progress).decode()
        commits = {
            TopicPartition(target.topic, partition): OffsetAndMetadata(offset, text, -1)
            for partition, offset in offsets.items()
        }
        for error in self._admin.alter_group_offsets(self._group, commits).values():
            if error is not NoError:
                raise error

    def ends(self, target: Target, *, earliest: bool = False) -> dict[int, int]:
        """The offset after each partition's last message, or of its first."""
        from kafka import TopicPartition
        from kafka.admin import OffsetSpec

        spec = OffsetSpec.EARLIEST if earliest else OffsetSpec.LATEST
        asked = {TopicPartition(target.topic, partition): spec for partition in range(target.partitions)}
        return {place.partition: end.offset for place, end in self._admin.list_partition_offsets(asked).items()}
