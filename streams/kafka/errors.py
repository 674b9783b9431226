"""Which trouble with Kafka may pass by waiting, and which will not."""

from __future__ import annotations

from streams.kafka.clients import KafkaError, UnreachableError

# by name, for two libraries have classes of their own for each: what a broker or a client refuses for good
_FOR_GOOD = (
    "Authorization",
    "Authentication",
    "Sasl",
    "Configuration",
    "TooLarge",
    "InvalidTopic",
    "Unsupported",
    "PolicyViolation",
    "OffsetOutOfRange",
    "NoOffsetForPartition",
)


class RefusedError(KafkaError):
    """A topic is not the one whose offsets are known; waiting does not help, and the text says what does."""


def is_retriable(error: BaseException) -> bool:
    """Whether the same may work later: a broker that is away, starting, or electing a leader."""
    if isinstance(error, UnreachableError | OSError):
        return True
    return is_client_error(error) and not any(part in type(error).__name__ for part in _FOR_GOOD)


def is_client_error(error: BaseException) -> bool:
    """Whether one of Kafka's clients raised it."""
    from aiokafka.errors import KafkaError as AioError
    from kafka.errors import KafkaError as PythonError

    return isinstance(error, AioError | PythonError)


def describe(error: BaseException) -> str:
    """An error in one line; clients' own texts may be empty."""
    text = str(error)
    return (
        text if isinstance(error, KafkaError) else f"Kafka says {type(error).__name__}" + (f": {text}" if text else "")
    )
