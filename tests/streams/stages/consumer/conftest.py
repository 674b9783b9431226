"""A topic of two partitions."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import Engine

from streams.kafka.provision import create_topics
from streams.observability.health import Health
from streams.observability.metrics import Metrics
from streams.settings.schema import KafkaSettings, Settings
from streams.stages.stage import Context


@pytest.fixture
def context(kafka: KafkaSettings, store: Engine) -> Context:
    kafka = msgspec.structs.replace(kafka, partitions=2)
    create_topics(kafka)
    return Context(settings=Settings(kafka=kafka), engine=store, metrics=Metrics(), health=Health())
