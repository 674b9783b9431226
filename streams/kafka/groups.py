"""The stages' consumer groups, asked of Kafka: who is in them, and what they have committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from interest.retry import Backoff, retry_blocking
from streams.kafka.clients import group_of
from streams.settings.schema import KafkaSettings

if TYPE_CHECKING:
    from kafka import KafkaAdminClient

LOADED_S = 15.0  # a broker that has just started makes its topic of offsets when it is first asked for them

T = TypeVar("T")


def members_of(client: KafkaAdminClient, settings: KafkaSettings, stages: Sequence[str]) -> dict[str, list[str]]:
    """The members of each stage's group, by client and host."""
    names = {stage: group_of(settings, stage) for stage in stages}
    groups = _ask_until_loaded(lambda: client.describe_groups(list(names.values())))
    return {
        stage: [f"{one['client_id']}@{one['client_host'].lstrip('/')}" for one in groups[name]["members"] or ()]
        for stage, name in names.items()
    }


def committed_of(client: KafkaAdminClient, group: str) -> dict[tuple[str, int], int]:
    """The offsets a group has committed, by topic and partition."""
    found = _ask_until_loaded(lambda: client.list_group_offsets({group: None}))[group]
    return {(place.topic, place.partition): at.offset for place, at in found.items() if at.offset >= 0}


def _ask_until_loaded(ask: Callable[[], T]) -> T:
    from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError

    loading = (CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError)
    until = time.monotonic() + LOADED_S

    def failed(error: Exception, _wait_s: float) -> None:
        if time.monotonic() > until:
            raise error

    soon = Backoff(first_s=0.2, most_s=0.2)
    return retry_blocking(ask, retriable=lambda error: isinstance(error, loading), failed=failed, backoff=soon)
