"""The messages on the topics: what each carries, its key, and why one cannot be used. JSON throughout.

`python -m streams.kafka.schemas` writes each one's JSON Schema to deploy/schemas, for subscribers in other languages.
Knows nothing of Kafka's clients and nothing of SQL.
"""

from __future__ import annotations

import struct

import msgspec

from interest.types import FUTURE_S, MAX_ID, MAX_VALUE, Behavior, Interest, Outcome, Partition, Reason, Source

MILLISECONDS_FROM = 1e11  # as seconds this is the year 5138
KEY_SHOWN = 80  # bytes of a key in the reason why its message cannot be used


class InterestUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A user's interest in one closed partition: what the topic interest-updates carries, keyed by user_id.

    Unique by (user_id, generation, index, prompt_version); one that comes again, as after a crash, is the same.
    """

    user_id: str
    index: int  # the partition: 0, 1, 2... per user and generation
    generation: int = 0
    prompt_version: str
    summary: str  # what the partition's behaviours say about the user
    summary_source: Source
    summary_outcome: Outcome
    shift: str  # how it differs from the partition before; empty for a user's first
    shift_source: Source
    shift_outcome: Outcome
    evidence: tuple[int, ...]  # sequence numbers of the behaviours behind the summary
    claims: int
    supported: int
    model: str
    opened_at: float  # the least event time in the partition, UTC seconds
    closed_at: float  # the greatest
    behaviors: int  # how many the partition holds
    reason: Reason  # why the partition was closed
    scene: str | None = None  # none: of all scenes. Where scenes are kept apart, whose; empty: without a scene


class RepresentationUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A user's dense vector as of one partition: what the compacted topic representations carries, keyed by user_id."""

    user_id: str
    index: int  # the newest partition it has seen
    generation: int = 0
    artifact: str  # the trained artifact's id, or "pooled:..." before anything is trained
    vector: bytes  # base64 of float32, little endian, (d,)
    common: bytes | None = None  # the same, (K,): the user in the artifact's common space, where its items are too
    encoder: str = ""  # the text encoder of what follows
    liked: bytes | None = None  # base64 of float16, little endian: centroid of what was liked in the partition
    disliked: bytes | None = None  # the same of what was not

    def floats(self) -> tuple[float, ...]:
        """The vector as numbers."""
        return struct.unpack(f"<{len(self.vector) // 4}f", self.vector)

    def common_floats(self) -> tuple[float, ...]:
        """The vector in the common space as numbers; empty where the artifact has none.

        Its dot product with an item's, as `interestream nearest DIR --export FILE` writes them, is the artifact's match
        scalar `taste`.
        """
        return struct.unpack(f"<{len(self.common or b'') // 4}f", self.common or b"")


def update_of(interest: Interest, partition: Partition) -> InterestUpdate:
    """The message that announces an interest."""
    shared = {
        name: getattr(interest, name) for name in Interest.__struct_fields__ if name in InterestUpdate.__struct_fields__
    }
    return InterestUpdate(
        **shared,
        opened_at=partition.opened_at,
        closed_at=partition.closed_at,
        behaviors=partition.size,
        reason=partition.reason,
        scene=partition.scene,
    )


def encode_message(message: Partition | InterestUpdate | RepresentationUpdate) -> bytes:
    """A message as JSON, without the fields that only stores with scenes kept apart have."""
    return msgspec.json.encode({name: one for name, one in msgspec.structs.asdict(message).items() if one is not None})


class Refusal(msgspec.Struct, frozen=True):
    """The reason why a message is not a behaviour."""

    reason: str


def wrong_key(key: bytes | None, name: str, wanted: str) -> str:
    """Why a key is not the message's `name` (user_id, item_id), the key shown as it came."""
    if key is None:
        return f"the key is null, not the {name} {wanted!r}; key the message with it"
    shown = key[:KEY_SHOWN].decode(errors="backslashreplace") + ("..." if len(key) > KEY_SHOWN else "")
    quoted = " without the JSON quotes" if key == msgspec.json.encode(wanted) else ""
    return f"the key is not the {name} {wanted!r} but {shown!r}; key the message with the {name}{quoted}"


_BEHAVIOR = msgspec.json.Decoder(Behavior)


def behavior_of_message(key: bytes | None, value: bytes | None, produced_at: float) -> Behavior | Refusal:
    """Decode a behaviour, or the reason why the message is not one. `produced_at` is the message's own time, in s."""
    if value is None:
        return Refusal("the value is null; a behaviour is a JSON object")
    try:
        behavior = _BEHAVIOR.decode(value)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return Refusal(str(error) or type(error).__name__)
    if key is None:
        return Refusal("the key is null; key the message with its user_id, or a user's behaviours lose their order")
    if key != behavior.user_id.encode():
        return Refusal(wrong_key(key, "user_id", behavior.user_id))
    return check_behavior(behavior, produced_at)


def check_behavior(behavior: Behavior, produced_at: float) -> Behavior | Refusal:
    """Check a behaviour's time and texts: the behaviour, or why it cannot be used."""
    at = behavior.at
    if at < 0:
        return Refusal(f"at is {at:g}, before 1970; event time is UTC seconds since then")
    if at > produced_at + FUTURE_S:
        unit = ", it looks like milliseconds: send seconds" if at > MILLISECONDS_FROM else ""
        return Refusal(f"at is {at:.0f}, {(at - produced_at) / 86_400:,.0f} days after the message was produced{unit}")
    if behavior.value is not None and abs(behavior.value) > MAX_VALUE:
        return Refusal(f"value is {behavior.value:g}, more than a float32 holds")
    for text in (behavior.user_id, behavior.item_id, behavior.action, behavior.scene, behavior.event_id):
        if text is not None and "\0" in text:
            return Refusal("a text has a NUL character")
    for name, text in (("user_id", behavior.user_id), ("item_id", behavior.item_id)):
        if len(text.encode()) > MAX_ID:
            return Refusal(f"{name} has {len(text.encode()):,} bytes; {MAX_ID:,} is the most")
    return behavior


_PARTITION = msgspec.json.Decoder(Partition)
_UPDATE = msgspec.json.Decoder(InterestUpdate)


def partition_of_message(key: bytes | None, value: bytes | None) -> Partition:
    """Decode the announcement of a partition. Raises ValueError or msgspec.DecodeError for anything else."""
    if value is None:
        raise ValueError("the value is null; a partition is a JSON object")
    partition = _PARTITION.decode(value)
    if key != partition.user_id.encode():
        raise ValueError(wrong_key(key, "user_id", partition.user_id))
    return partition


def update_of_message(key: bytes | None, value: bytes | None) -> InterestUpdate:
    """Decode an interest update. Raises ValueError or msgspec.DecodeError for anything else."""
    if value is None:
        raise ValueError("the value is null; an interest update is a JSON object")
    update = _UPDATE.decode(value)
    if key != update.user_id.encode():
        raise ValueError(wrong_key(key, "user_id", update.user_id))
    return update
