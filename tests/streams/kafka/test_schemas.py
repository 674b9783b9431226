"""The published schemas say what the messages are: no more, no less, and the files are up to date."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from interest.types import Behavior
from streams.kafka.schemas import FIELDS, FOLDER, TOPICS, file_of, schema_of, text_of
from tests.support.values import VALUES

WRONG: dict[str, list[dict[str, Any]]] = {
    "behaviors": [{"user_id": ""}, {"item_id": 3}, {"at": "noon"}, {"at": -1.0}, {"value": "five"}, {"action": None}],
    "items": [{"item_id": None}, {"categories": "a|b"}, {"attributes": {"year": 1995}}],
    "users": [{"attributes": ["a"]}],
    "partitions": [{"reason": "boredom"}, {"index": "first"}],
    "interest-updates": [{"summary_source": "astrology"}, {"evidence": [1.5]}, {"claims": None}],
    "representations": [{"vector": [0.5]}, {"artifact": 1}],
}


@pytest.mark.parametrize("topic", TOPICS)
def test_the_file_is_what_the_types_say(topic: str) -> None:
    """Mend with: python -m streams.kafka.schemas"""
    assert file_of(topic).read_bytes() == text_of(topic)


def test_there_is_a_file_for_each_topic_and_no_other() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {file_of(topic).name for topic in TOPICS}


@pytest.mark.parametrize("topic", TOPICS)
def test_every_field_is_described(topic: str) -> None:
    kind = TOPICS[topic].message
    assert set(FIELDS[kind]) == set(kind.__struct_fields__)
    schema = schema_of(topic)
    Draft202012Validator.check_schema(schema)
    assert all(field["description"] for field in schema["properties"].values())
    assert "\n    " not in schema["description"]


@pytest.mark.parametrize("topic", TOPICS)
@given(data=st.data())
def test_every_message_is_valid(topic: str, data: st.DataObject) -> None:
    kind = TOPICS[topic].message
    message = data.draw(VALUES[kind])
    if isinstance(message, Behavior):
        message = msgspec.structs.replace(message, at=abs(message.at))  # ingest refuses times before 1970
    Draft202012Validator(schema_of(topic)).validate(msgspec.json.decode(msgspec.json.encode(message)))


@pytest.mark.parametrize("topic", TOPICS)
@given(data=st.data())
def test_a_wrong_message_is_not(topic: str, data: st.DataObject) -> None:
    """Nor do the types take it: the schema refuses nothing that they take but times before 1970."""
    kind = TOPICS[topic].message
    message = msgspec.json.decode(msgspec.json.encode(data.draw(VALUES[kind])))
    if kind is Behavior:
        message["at"] = abs(message["at"])
    validator, wrong = Draft202012Validator(schema_of(topic)), data.draw(st.sampled_from(WRONG[topic]))
    assert validator.is_valid(message)
    assert not validator.is_valid(message | wrong)
    if wrong != {"at": -1.0}:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(message | wrong, kind)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_required_field_is_required(topic: str) -> None:
    kind = TOPICS[topic].message
    required = {field.name for field in msgspec.structs.fields(kind) if field.required}
    assert set(schema_of(topic)["required"]) == required
    assert required
