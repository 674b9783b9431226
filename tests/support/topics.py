"""Topics that a test takes away."""

from __future__ import annotations

import time

from streams.kafka.clients import admin
from streams.kafka.provision import read_topics
from streams.settings.schema import KafkaSettings

PATIENCE_S = 60.0


def delete_topic(settings: KafkaSettings, topic: str) -> None:
    """Return once brokers list it no more: who makes it again before that finds the old one there and keeps it."""
    with admin(settings) as client:
        client.delete_topics([topic])
        end = time.monotonic() + PATIENCE_S
        while read_topics(client, [topic]):
            if time.monotonic() > end:
                raise AssertionError(f"{topic} did not go")
            time.sleep(0.05)
