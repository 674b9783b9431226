"""Creates the topics, compares those that exist with what they must be (streams/kafka/topics.py), and shows them.

Nothing is changed that is there already. What would lose order or messages (another number of partitions, another
cleanup policy, smaller messages) is refused; what only differs from the settings (retention, replication) is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from streams.kafka.clients import MAX_DEAD, MAX_MESSAGE, KafkaError, admin_for_command
from streams.kafka.topics import BOTH, SPECS, Topics, dead_of
from streams.settings.schema import KafkaSettings

if TYPE_CHECKING:
    from kafka import KafkaAdminClient, TopicPartition
    from kafka.admin import OffsetSpec

DAY_MS = 86_400_000
LETTER_BYTES = MAX_DEAD + 65_536  # a whole dead letter: its value, and key, headers and framing beside it


class TopicPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as it must be."""

    name: str
    partitions: int
    by_user: bool  # then the number of partitions must be this one
    replication: int
    cleanup: tuple[str, ...]
    retention_ms: int | None  # none: what is compacted stays
    max_bytes: int  # of one message

    def options(self, retention_ms: int) -> dict[str, str]:
        """The topic's configuration on the broker."""
        options = {"cleanup.policy": ",".join(self.cleanup), "max.message.bytes": str(self.max_bytes)}
        # Kafka deletes whole segments only: one a day at most, or a quiet topic keeps messages twice as long
        options["segment.ms"] = str(min(DAY_MS, retention_ms))
        if self.retention_ms is not None:
            options["retention.ms"] = str(self.retention_ms)
        if "compact" in self.cleanup:
            # a forgotten user's last words are off the disk a day later; readers have `retention` to see the tombstone
            options["max.compaction.lag.ms"] = str(min(DAY_MS, retention_ms))
            options["delete.retention.ms"] = str(retention_ms)
        return options


class TopicState(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as it is."""

    name: str
    id: str  # Kafka's; another one after the topic was deleted and made again
    partitions: int
    replication: int
    cleanup: tuple[str, ...]
    retention_ms: int | None
    max_bytes: int


class TopicRow(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `topics show`."""

    topic: str
    partitions: int | None = None  # none: the topic does not exist
    replication: int | None = None
    messages: int | None = None  # end minus start offsets: a compacted topic holds fewer
    cleanup: str | None = None
    retention_days: float | None = None
    wrong: tuple[str, ...] = ()  # for which the agent refuses to start
    differs: tuple[str, ...] = ()  # from the settings, without harm


def planned(settings: KafkaSettings) -> list[TopicPlan]:
    """Every topic of an installation: those keyed by user, the others, and the topics of dead letters."""
    topics = Topics(settings.prefix)
    shared: dict[str, Any] = {"partitions": settings.partitions, "replication": settings.replication}
    plans = [
        TopicPlan(
            name=topics.prefix + spec.name,
            by_user=spec.key == "user_id",
            cleanup=spec.cleanup,
            retention_ms=None if spec.is_compacted else _retention(settings),
            max_bytes=MAX_MESSAGE,
            **shared,
        )
        for spec in sorted(SPECS, key=lambda spec: spec.key != "user_id")
    ]
    letters: dict[str, Any] = {"by_user": False, "cleanup": BOTH, "max_bytes": LETTER_BYTES}
    return plans + [
        TopicPlan(name=dead_of(name), retention_ms=_retention(settings), **letters, **shared)
        for name in topics.consumed
    ]


def _retention(settings: KafkaSettings) -> int:
    return int(settings.retention_days * DAY_MS)


def faults_of(plan: TopicPlan, state: TopicState) -> list[str]:
    """The faults for which a topic cannot be used: what it is, what it must be, and what to do."""
    faults = []
    if plan.by_user and state.partitions != plan.partitions:
        more = state.partitions < plan.partitions
        faults.append(
            f"{plan.name} has {state.partitions} partitions, the settings say {plan.partitions}: every topic keyed by "
            f"user must have the same number. Set INTERESTREAM_KAFKA_PARTITIONS={state.partitions}"
            + (f", or let all of them grow to {plan.partitions} with kafka-topics.sh --alter" if more else "")
            + f", or delete {plan.name} and create it again"
        )
    if state.cleanup != plan.cleanup:
        faults.append(
            f"{plan.name} has cleanup.policy {_policy(state.cleanup)}, it must be {_policy(plan.cleanup)}: "
            f"kafka-configs.sh --alter --entity-type topics --entity-name {plan.name} "
            f"--add-config cleanup.policy=[{_policy(plan.cleanup)}]"
        )
    if state.max_bytes < plan.max_bytes:
        faults.append(
            f"{plan.name} has max.message.bytes {state.max_bytes}, it must be {plan.max_bytes} at least: "
            f"kafka-configs.sh --alter --entity-type topics --entity-name {plan.name} "
            f"--add-config max.message.bytes={plan.max_bytes}"
        )
    return faults


def differences_of(plan: TopicPlan, state: TopicState) -> list[str]:
    """How a topic differs from the settings without harm."""
    differences = []
    if plan.retention_ms is not None and state.retention_ms != plan.retention_ms:
        differences.append(f"retention is {_days(state.retention_ms)}, the settings say {_days(plan.retention_ms)}")
    if state.replication != plan.replication:
        differences.append(f"replication is {state.replication}, the settings say {plan.replication}")
    return differences


def create_topics(settings: KafkaSettings, *, dry_run: bool = False) -> tuple[list[TopicPlan], list[TopicState]]:
    """Create the missing topics; return those created (with `dry_run`, to be created) and those that existed.

    Raises KafkaError, and creates nothing, if an existing topic does not fit.
    """
    plans = planned(settings)
    with admin_for_command(settings) as client:
        existing = read_topics(client, [plan.name for plan in plans])
        _refuse([fault for plan in plans if plan.name in existing for fault in faults_of(plan, existing[plan.name])])
        missing = [plan for plan in plans if plan.name not in existing]
        if missing:
            _create(client, missing, _retention(settings), validate_only=True)
        if missing and not dry_run:
            _create(client, missing, _retention(settings), validate_only=False)
            client.wait_for_topics([plan.name for plan in missing])
    if not dry_run:
        check_topics(settings)
    return missing, list(existing.values())


def _create(client: KafkaAdminClient, plans: Sequence[TopicPlan], retention_ms: int, *, validate_only: bool) -> None:
    from kafka.errors import TopicAlreadyExistsError, for_code

    new = {
        plan.name: {
            "num_partitions": plan.partitions,
            "replication_factor": plan.replication,
            "configs": plan.options(retention_ms),
        }
        for plan in plans
    }
    answers = client.create_topics(new, validate_only=validate_only, raise_errors=False)["topics"]
    allowed = (0, TopicAlreadyExistsError.errno)  # another `topics create` was as quick; what it made is checked after
    reasons: dict[str, list[str]] = {}  # one reason, as too few brokers, mostly holds for all
    for answer in answers:
        if answer["error_code"] not in allowed:
            reason = answer["error_message"] or for_code(answer["error_code"]).__name__
            reasons.setdefault(reason, []).append(answer["name"])
    _refuse([f"Kafka does not create {', '.join(names)}: {reason}" for reason, names in reasons.items()])


def check_topics(settings: KafkaSettings) -> None:
    """Raise KafkaError, which names every topic that is missing or does not fit and what to do, unless all do."""
    plans = planned(settings)
    with admin_for_command(settings) as client:
        existing = read_topics(client, [plan.name for plan in plans])
    missing = [plan.name for plan in plans if plan.name not in existing]
    faults = [fault for plan in plans if plan.name in existing for fault in faults_of(plan, existing[plan.name])]
    if missing:
        faults.append(f"there is no topic {', '.join(missing)} at {settings.brokers}: run `interestream topics create`")
    _refuse(faults)


def _refuse(faults: Sequence[str]) -> None:
    if len(faults) == 1:
        raise KafkaError(faults[0])
    if faults:
        raise KafkaError("the topics are not as they must be:\n" + "\n".join(f"  - {fault}" for fault in faults))


def show_topics(settings: KafkaSettings) -> list[TopicRow]:
    """Every topic of the installation as it is, and what is wrong with it."""
    plans = planned(settings)
    with admin_for_command(settings) as client:
        existing = read_topics(client, [plan.name for plan in plans])
        ranges = offset_ranges(client, existing.values())
    return [_row(plan, existing.get(plan.name), ranges) for plan in plans]


def _row(plan: TopicPlan, state: TopicState | None, ranges: dict[tuple[str, int], tuple[int, int]]) -> TopicRow:
    if state is None:
        return TopicRow(topic=plan.name, wrong=("it is not there: run `interestream topics create`",))
    ranges_of_topic = [ranges[state.name, partition] for partition in range(state.partitions)]
    return TopicRow(
        topic=state.name,
        partitions=state.partitions,
        replication=state.replication,
        messages=sum(end - start for start, end in ranges_of_topic),
        cleanup=_policy(state.cleanup),
        retention_days=None if state.retention_ms is None else round(state.retention_ms / DAY_MS, 3),
        wrong=tuple(faults_of(plan, state)),
        differs=tuple(differences_of(plan, state)),
    )


def read_topics(client: KafkaAdminClient, names: Sequence[str]) -> dict[str, TopicState]:
    """The state of the topics that exist. Raises KafkaError for one that this user of Kafka may not see."""
    from kafka.admin import ConfigResource, ConfigResourceType
    from kafka.errors import UnknownTopicOrPartitionError, for_code

    described = []
    for topic in client.describe_topics(list(names)):
        if not topic["error_code"]:
            described.append(topic)
        elif topic["error_code"] != UnknownTopicOrPartitionError.errno:
            raise KafkaError(f"Kafka does not describe {topic['name']}: {for_code(topic['error_code']).__name__}")
    options = dict.fromkeys(("cleanup.policy", "retention.ms", "max.message.bytes"))
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic["name"], options) for topic in described]
    configs = client.describe_configs(resources, config_filter="all")["topic"] if resources else {}
    return {
        topic["name"]: _topic_state(topic, configs[topic["name"]]) for topic in described if configs.get(topic["name"])
    }


def _topic_state(topic: dict[str, Any], config: dict[str, Any]) -> TopicState:
    cleanup = tuple(sorted(config["cleanup.policy"]["value"].replace(" ", "").split(",")))
    retention = int(config["retention.ms"]["value"])
    return TopicState(
        name=topic["name"],
        id=str(topic["topic_id"]),
        partitions=len(topic["partitions"]),
        replication=min((len(partition["replica_nodes"]) for partition in topic["partitions"]), default=0),
        cleanup=cleanup,
        retention_ms=None if "delete" not in cleanup or retention < 0 else retention,
        max_bytes=int(config["max.message.bytes"]["value"]),
    )


def offset_ranges(client: KafkaAdminClient, states: Iterable[TopicState]) -> dict[tuple[str, int], tuple[int, int]]:
    """Start and end offset by topic and partition."""
    from kafka import TopicPartition
    from kafka.admin import OffsetSpec

    places = [TopicPartition(topic.name, partition) for topic in states for partition in range(topic.partitions)]
    if not places:
        return {}
    starts, ends = (_offsets(client, places, spec) for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST))
    return {(place.topic, place.partition): (starts[place], ends[place]) for place in places}


def _offsets(client: KafkaAdminClient, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[TopicPartition, int]:
    return {
        partition: at.offset for partition, at in client.list_partition_offsets(dict.fromkeys(partitions, spec)).items()
    }


def _policy(cleanup: Sequence[str]) -> str:
    return ",".join(cleanup)


def _days(milliseconds: int | None) -> str:
    return "for ever" if milliseconds is None else f"{milliseconds / DAY_MS:g} days"
