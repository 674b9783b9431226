"""The rows of topics: what is derived from them, and what they must keep."""

from __future__ import annotations

import pytest

from streams.kafka.provision import planned
from streams.kafka.schemas import FIELDS, TOPICS
from streams.kafka.topics import SPECS, STAGES, Topics, TopicSpec, dead_of
from streams.settings.schema import KafkaSettings


def test_a_row_is_a_spec_by_its_class_and_a_full_name_by_an_installation() -> None:
    assert isinstance(Topics.updates, TopicSpec)
    assert Topics("shop.").updates == "shop.interest-updates"
    assert Topics("shop.").spec_of("shop.interest-updates") is Topics.updates
    assert Topics("shop.").spec_of("interest-updates") is None


def test_every_topic_that_a_stage_reads_has_dead_letters_and_every_stage_reads_one() -> None:
    topics = Topics("p.")
    assert sorted(topics.consumed) == sorted(name for stage in STAGES for name in topics.read_by(stage))
    assert STAGES == ("ingest", "interest", "fusion")
    names = [plan.name for plan in planned(KafkaSettings(prefix="p."))]
    assert sorted(names) == sorted(["p." + spec.name for spec in SPECS] + [dead_of(name) for name in topics.consumed])
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_key_of_a_topic_is_a_field_of_its_messages(spec: TopicSpec) -> None:
    assert spec.key in spec.message.__struct_fields__
    assert spec.message in FIELDS


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.schema], ids=lambda spec: spec.name)
def test_a_topic_without_a_schema_names_the_one_that_has_it(spec: TopicSpec) -> None:
    assert any(name in spec.about and TOPICS[name].message is spec.message for name in TOPICS)
