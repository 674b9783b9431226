"""The JSON Schema of every topic's messages, for producers and subscribers in other languages.

`python -m streams.kafka.schemas` writes deploy/schemas; a test fails when a file there is not what the types say.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import msgspec

from interest.types import Behavior, Item, Partition, User
from streams.kafka.messages import InterestUpdate, RepresentationUpdate
from streams.kafka.topics import SPECS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FOLDER = Path(__file__).parents[2] / "deploy" / "schemas"
TOPICS = {spec.name: spec for spec in SPECS if spec.schema}  # by name, those with a file of their own
_SECONDS = "UTC seconds since 1970, with fractions"
_USER, _INDEX = "the user", "the partition's number: 0, 1, 2... per user and generation"
_GENERATION = "0, and one more each time the user's partitions are made anew"
_CLOSED = "why the partition was closed"
_OF_SCENE = "where scenes are kept apart: whose behaviours alone the partition holds; empty: those without a scene"
FIELDS: dict[type[msgspec.Struct], dict[str, str]] = {
    Behavior: {
        "user_id": _USER,
        "item_id": "the item it was done to",
        "action": "what was done: rate, play, view, purchase...",
        "at": f"event time, {_SECONDS}; at most a day after the message's own time",
        "value": "a rating, seconds played, a price...",
        "scene": "where it happened: a page, a placement",
        "event_id": "the producer's own identity of the event; a repeat within the user's newest behaviours is dropped",
    },
    Item: {
        "item_id": "the item",
        "title": "what people call it; the texts name it so",
        "categories": "genres, departments, tags",
        "attributes": "anything else, as text",
    },
    User: {"user_id": _USER, "attributes": "the profile, as text: age, occupation..."},
    Partition: {
        "user_id": _USER,
        "index": _INDEX,
        "generation": _GENERATION,
        "first_seq": "sequence number of the user's first behaviour inside",
        "last_seq": "sequence number of the last one inside",
        "opened_at": f"the least event time inside, {_SECONDS}",
        "closed_at": f"the greatest event time inside, {_SECONDS}",
        "reason": _CLOSED,
        "scene": _OF_SCENE,
        "previous": "where scenes are kept apart: the index of the scene's partition before",
        "members": "where scenes are kept apart: how many of first_seq to last_seq are the scene's",
    },
    InterestUpdate: {
        "user_id": _USER,
        "index": _INDEX,
        "generation": _GENERATION,
        "prompt_version": "which prompt wrote the texts",
        "summary": "what the partition's behaviours say about the user",
        "summary_source": "who wrote the summary",
        "summary_outcome": "how the LLM's work on the summary ended",
        "shift": "how it differs from the partition before; empty for a user's first",
        "shift_source": "who wrote the shift",
        "shift_outcome": "how the LLM's work on the shift ended",
        "evidence": "sequence numbers of the behaviours behind the summary",
        "claims": "claims that were checked in the LLM's accepted attempts",
        "supported": "how many of these the partition supports",
        "model": "the LLM's name; empty where statistics wrote the texts",
        "opened_at": f"the least event time in the partition, {_SECONDS}",
        "closed_at": f"the greatest event time in the partition, {_SECONDS}",
        "behaviors": "how many behaviours the partition holds",
        "reason": _CLOSED,
        "scene": _OF_SCENE,
    },
    RepresentationUpdate: {
        "user_id": _USER,
        "index": "the newest partition that the vector has seen",
        "generation": _GENERATION,
        "artifact": 'the trained artifact that made it, or "pooled:..." before anything is trained',
        "vector": "base64 of float32 numbers, little endian",
        "common": "the user in the artifact's common space, base64 of float32 numbers, little endian: its dot product "
        "with an item's vector (`interestream nearest DIR --export FILE`) means something; null where there is none",
        "encoder": "the text encoder behind `liked` and `disliked`; empty where there are none",
        "liked": "centroid of the texts' vectors of what was liked in that partition, base64 of float16 numbers, "
        "little endian",
        "disliked": "the same of what was not liked",
    },
}
# what the types check beyond their fields' types, or a consumer refuses
_LIMITS: dict[tuple[type[msgspec.Struct], str], dict[str, Any]] = {
    (Behavior, "user_id"): {"minLength": 1},
    (Behavior, "item_id"): {"minLength": 1},
    (Behavior, "at"): {"minimum": 0},
}


def schema_of(topic: str) -> dict[str, Any]:
    """The schema of a topic's messages."""
    spec = TOPICS[topic]
    kind = spec.message
    definitions: dict[str, Any] = msgspec.json.schema(kind)["$defs"]
    for definition in definitions.values():
        definition["description"] = inspect.cleandoc(definition.get("description", ""))
    schema: dict[str, Any] = definitions.pop(kind.__name__)
    for name, field in schema["properties"].items():
        field.update({"description": FIELDS[kind][name]} | _LIMITS.get((kind, name), {}))
    about = (
        f"{schema.pop('description')}\n\n{spec.about} Unknown fields are to be ignored: later versions may add some."
    )
    head = {"$schema": DIALECT, "title": schema.pop("title"), "description": about}
    return head | schema | ({"$defs": definitions} if definitions else {})


def text_of(topic: str) -> bytes:
    """The file's content."""
    return msgspec.json.format(msgspec.json.encode(schema_of(topic)), indent=2) + b"\n"


def file_of(topic: str, folder: Path = FOLDER) -> Path:
    return folder / f"{topic}.schema.json"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for topic in TOPICS:
        file_of(topic).write_bytes(text_of(topic))
        print(file_of(topic).relative_to(FOLDER.parent.parent), file=sys.stderr)


if __name__ == "__main__":
    main()
