"""`topics`: what is created, what is refused, and that a refusal changes nothing. On the real broker."""

from __future__ import annotations

import msgspec
import pytest
from kafka.admin import ConfigResource, ConfigResourceType
from typer.testing import CliRunner

from streams.cli import app
from streams.kafka.clients import MAX_DEAD, KafkaError, admin
from streams.kafka.provision import check_topics, create_topics, planned, show_topics
from streams.kafka.topics import Topics, dead_of
from streams.settings.schema import KafkaSettings


@pytest.fixture
def settings(kafka):
    return msgspec.structs.replace(kafka, partitions=3, retention_days=2.0)


@pytest.fixture
def environ(settings, monkeypatch):
    monkeypatch.setenv("INTERESTREAM_KAFKA", settings.brokers)
    monkeypatch.setenv("INTERESTREAM_KAFKA_PREFIX", settings.prefix)
    monkeypatch.setenv("INTERESTREAM_KAFKA_PARTITIONS", str(settings.partitions))


def make(settings: KafkaSettings, topic: str, partitions: int = 3, **options: str) -> None:
    configs = {name.replace("_", "."): value for name, value in options.items()}
    with admin(settings) as client:
        client.create_topics(
            {topic: {"num_partitions": partitions, "replication_factor": 1, "configs": configs}}, wait_for_metadata=True
        )


def there(settings: KafkaSettings) -> set[str]:
    with admin(settings) as client:
        return {name for name in client.list_topics() if name.startswith(settings.prefix)}


def config(settings: KafkaSettings, topic: str) -> dict[str, str]:
    with admin(settings) as client:
        found = client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
    return {name: entry["value"] for name, entry in found["topic"][topic].items()}


def test_every_topic_is_created_as_it_must_be_and_again_is_nothing(settings):
    topics = Topics(settings.prefix)
    created, kept = create_topics(settings)
    assert not kept
    assert there(settings) == {plan.name for plan in created} == {
        *topics.of_users(compacted=True), *topics.of_users(compacted=False),
        topics.items, *map(dead_of, topics.consumed)
    }  # fmt: skip
    assert config(settings, topics.behaviors)["retention.ms"] == str(2 * 86_400_000)
    for topic in (topics.items, topics.users, topics.latest, topics.representations):
        assert config(settings, topic)["cleanup.policy"] == "compact"
    for topic in (topics.behaviors, topics.partitions, topics.updates):
        assert config(settings, topic)["cleanup.policy"] == "delete"
    dead = config(settings, dead_of(topics.behaviors))
    assert set(dead["cleanup.policy"].split(",")) == {"compact", "delete"}
    assert int(dead["max.message.bytes"]) > MAX_DEAD
    check_topics(settings)
    created, kept = create_topics(settings)
    assert not created
    assert {(found.partitions, found.replication) for found in kept} == {(3, 1)}
    assert not [row for row in show_topics(settings) if row.wrong or row.differs]


def test_a_whole_dead_letter_fits_its_topic(settings):
    """The largest value that is kept whole, with its key, headers and framing."""
    from kafka import KafkaProducer

    from streams.kafka.clients import python_options
    from streams.kafka.dead_letter import dead_letter

    create_topics(settings)
    topic = Topics(settings.prefix).behaviors
    key, value, headers = dead_letter(topic, 0, 0, b"u", b"x" * (MAX_DEAD - 1), 0, "too large for a reason " * 20)
    producer = KafkaProducer(**python_options(settings), max_request_size=2 * MAX_DEAD)
    try:
        assert len(value or b"") == MAX_DEAD - 1
        assert producer.send(dead_of(topic), value, key=key, headers=headers).get(60).offset == 0
    finally:
        producer.close()


def test_a_dry_run_creates_nothing(settings, environ):
    run = CliRunner().invoke(app, ["topics", "create", "--dry-run"])
    assert run.exit_code == 0, run.output
    assert f"{settings.prefix}interest-latest" in run.output
    assert "would be created: 3 partitions" in run.output
    assert there(settings) == set()


@pytest.mark.parametrize(
    ("name", "partitions", "options", "says"),
    [
        ("behaviors", 5, {}, r"behaviors has 5 partitions, the settings say 3.*INTERESTREAM_KAFKA_PARTITIONS=5"),
        ("partitions", 2, {}, r"partitions has 2 partitions, the settings say 3.*grow to 3"),
        ("users", 3, {}, r"users has cleanup.policy delete, it must be compact: kafka-configs.sh .*--entity-name"),
        ("behaviors", 3, {"cleanup_policy": "compact"}, r"behaviors has cleanup.policy compact, it must be delete"),
        (
            "behaviors.dead",
            3,
            {"cleanup_policy": "compact,delete"},
            r"dead has max.message.bytes 1048588, it must be \d+ at least: kafka-configs.sh",
        ),
    ],
)
def test_a_topic_that_does_not_fit_is_refused_and_nothing_is_created(settings, name, partitions, options, says):
    topic = settings.prefix + name
    make(settings, topic, partitions, **options)
    with pytest.raises(KafkaError, match=says):
        create_topics(settings)
    assert there(settings) == {topic}
    [row] = [row for row in show_topics(settings) if row.topic == topic]
    assert row.wrong


def test_catalogue_and_dead_letters_may_have_any_number_of_partitions(settings):
    topics = Topics(settings.prefix)
    make(settings, topics.items, 1, cleanup_policy="compact")
    make(settings, dead_of(topics.items), 1, cleanup_policy="delete,compact", max_message_bytes=str(2 * MAX_DEAD))
    create_topics(settings)
    check_topics(settings)


def test_the_agent_is_told_all_at_once(settings):
    make(settings, f"{settings.prefix}behaviors", 5)
    make(settings, f"{settings.prefix}users", 3)
    with pytest.raises(KafkaError) as refused:
        check_topics(settings)
    text = str(refused.value)
    assert "behaviors has 5 partitions" in text
    assert "users has cleanup.policy delete" in text
    assert f"there is no topic {settings.prefix}partitions, " in text
    assert "`interestream topics create`" in text


def test_what_only_differs_is_shown_and_not_refused(settings):
    create_topics(settings)
    longer = msgspec.structs.replace(settings, retention_days=9.0, replication=2)
    check_topics(longer)
    [row] = [row for row in show_topics(longer) if row.topic == f"{settings.prefix}behaviors"]
    assert row.differs == (
        "retention is 2 days, the settings say 9 days",
        "replication is 1, the settings say 2",
    )


def test_too_few_brokers_are_said_once(settings):
    with pytest.raises(KafkaError, match=r"Kafka does not create .*behaviors, .*3 time") as refused:
        create_topics(msgspec.structs.replace(settings, replication=3))
    assert str(refused.value).count("replicate") == 1
    assert there(settings) == set()


def test_show_counts_messages_and_exits_with_1_if_something_is_wrong(settings, environ):
    from kafka import KafkaProducer

    from streams.kafka.clients import python_options

    run = CliRunner().invoke(app, ["topics", "show"])
    assert run.exit_code == 1
    assert "topics create" in run.output
    create_topics(settings)
    producer = KafkaProducer(**python_options(settings))
    for number in range(7):
        producer.send(f"{settings.prefix}behaviors", b"{}", partition=number % 3).get(10)
    producer.close()
    run = CliRunner().invoke(app, ["topics", "show", "--json"])
    assert run.exit_code == 0, run.output
    rows = {row["topic"]: row for row in msgspec.json.decode(run.output)["topics"]}
    assert rows[f"{settings.prefix}behaviors"]["messages"] == 7
    assert rows[f"{settings.prefix}behaviors.dead"]["messages"] == 0
    assert set(rows) == {plan.name for plan in planned(settings)}


def test_no_broker_is_one_sentence(settings):
    from deploy.kafka.node import free_port

    nowhere = msgspec.structs.replace(settings, brokers=f"127.0.0.1:{free_port()}")
    with pytest.raises(KafkaError, match=r"no Kafka answers at 127.0.0.1.*make kafka"):
        check_topics(nowhere)
