"""Kafka's clients, each made from one set of settings, and the names of the consumer groups.

aiokafka carries the data; kafka-python's admin client asks about topics, offsets and groups. Clients are imported when
they are made: commands without Kafka start without them.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from interest.errors import InputError, InterestreamError
from streams.settings.schema import KafkaSettings

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

MAX_MESSAGE = 1_048_576  # bytes of one message on our topics, Kafka's own default
MAX_DEAD = 16_777_216  # a dead letter holds the whole message that it is about, and a topic may allow large ones
# aiokafka asks a broker one thing at a time: while it waits for topics where nothing comes, the others wait with it
FETCH_WAIT_MS = 50
# kafka-python computes a batch's checksum in Python: 9/10 of the time of reading. The broker has checked it.
CHECK_CRCS = False


class KafkaError(InterestreamError):
    """Kafka cannot be reached, or a topic is not as it must be; the text names the topic and the remedy."""


class UnreachableError(KafkaError):
    """No broker answers; it may come back."""


def group_of(settings: KafkaSettings, stage: str) -> str:
    """The consumer group of a stage."""
    return f"{settings.prefix}interestream-{stage}"


def make_consumer(settings: KafkaSettings, *topics: str, group: str | None = None, **options: Any) -> AIOKafkaConsumer:
    """An aiokafka consumer, not started: no commits of its own, no silent reset of offsets."""
    from aiokafka import AIOKafkaConsumer

    return AIOKafkaConsumer(
        *topics,
        **_aiokafka(settings),
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="none",
        session_timeout_ms=int(settings.session_timeout_s * 1000),
        heartbeat_interval_ms=int(settings.session_timeout_s * 1000 / 6),
        fetch_max_wait_ms=FETCH_WAIT_MS,
        isolation_level=settings.isolation,
        **options,
    )


async def commit(consumer: AIOKafkaConsumer, offsets: Mapping[Any, Any]) -> None:
    """Commit offsets to the consumer's group. A cancelled caller does not learn how it ended: without this asyncio
    would log an exception that was never retrieved, from a task inside aiokafka."""
    running = asyncio.ensure_future(consumer.commit(dict(offsets)))
    running.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.shield(running)


def make_producer(settings: KafkaSettings, **options: Any) -> AIOKafkaProducer:
    """An aiokafka producer, not started: idempotent, acknowledged by all replicas."""
    from aiokafka import AIOKafkaProducer

    defaults: dict[str, Any] = {"enable_idempotence": True, "linger_ms": 5, "max_request_size": MAX_DEAD + 65_536}
    return AIOKafkaProducer(**_aiokafka(settings), **(defaults | options))


@contextmanager
def admin(settings: KafkaSettings) -> Iterator[KafkaAdminClient]:
    """kafka-python's admin client, closed at the end. Raises UnreachableError where no broker answers.

    What a broker then says is kafka-python's own error, for callers that try again; `asking` is for commands.
    """
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError as ClientError

    check_reachable(settings)
    try:
        client = KafkaAdminClient(**python_options(settings), request_timeout_ms=30_000)
    except (ClientError, OSError) as error:
        raise unreachable(settings, error) from error
    try:
        yield client
    finally:
        client.close()


@contextmanager
def admin_for_command(settings: KafkaSettings) -> Iterator[KafkaAdminClient]:
    """`admin` for a command: a broker's refusal is a KafkaError too, and ends the command."""
    with _translate_errors(settings), admin(settings) as client:
        yield client


@contextmanager
def consumer_for_command(settings: KafkaSettings) -> Iterator[KafkaConsumer]:
    """kafka-python's consumer without a group, for commands that read a topic through; closed at the end."""
    from kafka import KafkaConsumer

    with _translate_errors(settings):
        check_reachable(settings)
        options = {"enable_auto_commit": False, "auto_offset_reset": "earliest", "allow_auto_create_topics": False}
        options["isolation_level"] = settings.isolation
        client = KafkaConsumer(**python_options(settings), **options, check_crcs=CHECK_CRCS)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def producer_for_command(settings: KafkaSettings, *, transactions: str | None = None) -> Iterator[KafkaProducer]:
    """kafka-python's producer, for commands: idempotent, acknowledged by all replicas, closed at the end.

    `transactions` is their id: a second producer with it ends the first one's.
    """
    from kafka import KafkaProducer

    with _translate_errors(settings):
        check_reachable(settings)
        options: dict[str, Any] = {
            "max_request_size": MAX_DEAD + 65_536,
            "linger_ms": 5,
            "allow_auto_create_topics": False,
        }
        if transactions:
            options["transactional_id"] = transactions
        client = KafkaProducer(**python_options(settings), **options)
        try:
            if transactions:
                client.init_transactions()
            yield client
        finally:
            client.close(timeout=10.0)


@contextmanager
def _translate_errors(settings: KafkaSettings) -> Iterator[None]:
    """Translate kafka-python's errors into KafkaError."""
    from kafka.errors import KafkaError as ClientError

    try:
        yield
    except ClientError as error:
        raise KafkaError(f"Kafka at {settings.brokers} said {type(error).__name__}: {error}") from error


def check_reachable(settings: KafkaSettings) -> None:
    """Raise UnreachableError at once where no port is open: kafka-python would try for seconds, and leak sockets."""
    failure: OSError | None = None
    for broker in settings.brokers.replace(" ", "").split(","):
        host, _, port = broker.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
        except OSError as error:
            failure = error
        else:
            return
    raise unreachable(settings, failure or OSError("no broker is named"))


def unreachable(settings: KafkaSettings, error: BaseException) -> UnreachableError:
    return UnreachableError(
        f"no Kafka answers at {settings.brokers} ({error}); start it (`make kafka`), or set INTERESTREAM_KAFKA"
    )


def python_options(settings: KafkaSettings) -> dict[str, Any]:
    """The options of kafka-python's clients."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.brokers.replace(" ", "").split(","),
        "security_protocol": settings.security,
        "bootstrap_timeout_ms": 30_000,  # a closed port is told at once: check_reachable
    }
    if settings.security.startswith("SASL"):
        options |= _sasl(settings)
    if settings.security.endswith("SSL"):
        options["ssl_context"] = _tls(settings)
    return options


def _aiokafka(settings: KafkaSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "client_id": f"interestream-{os.getpid()}",  # told apart in `interestream lag`
        "bootstrap_servers": settings.brokers.replace(" ", ""),
        "security_protocol": settings.security,
    }
    if settings.security.startswith("SASL"):
        options |= _sasl(settings)
    if settings.security.endswith("SSL"):
        options["ssl_context"] = _tls(settings)
    return options


def _sasl(settings: KafkaSettings) -> dict[str, Any]:
    if settings.username is None or settings.password is None:
        raise InputError(
            f"{settings.security} needs INTERESTREAM_KAFKA_USERNAME and INTERESTREAM_KAFKA_PASSWORD; set both"
        )
    return {
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.username,
        "sasl_plain_password": settings.password.value,
    }


def _tls(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.certificate_file:
            context.load_cert_chain(settings.certificate_file, settings.key_file)
    except OSError as error:
        raise InputError(f"the TLS files of the Kafka settings cannot be used: {error}") from error
    return context
