"""A partition's messages become behaviours, or refusals with a reason. Pure: no Kafka client, no SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from interest.types import FUTURE_S, MAX_ID, MAX_VALUE, Behavior
from streams.kafka.messages import Refusal, behavior_of_message
from streams.stages.consumer.message import Record, Refused

_DECODE = msgspec.json.Decoder(Behavior).decode


class Decoded(msgspec.Struct, frozen=True, kw_only=True):
    """What one partition's messages of a batch are."""

    behaviors: Sequence[Behavior]
    origins: Sequence[Record]  # of each behaviour
    refused: Sequence[Refused] = ()


def decode(messages: Sequence[Record], poison: Mapping[int, str]) -> Decoded:
    """The behaviours of a partition's messages; `poison` has the offsets that the store refused, and its words."""
    if not poison:
        behaviors = _all_good(messages)
        if behaviors is not None:
            return Decoded(behaviors=behaviors, origins=messages)
    good, origins, refused = [], [], []
    for message in messages:
        found = behavior_of_message(message.key, message.value, message.timestamp / 1000)
        if isinstance(found, Refusal):
            refused.append((message, found.reason))
        elif message.offset in poison:
            refused.append((message, f"the store refuses it: {poison[message.offset]}"))
        else:
            good.append(found)
            origins.append(message)
    return Decoded(behaviors=good, origins=origins, refused=refused)


def _all_good(messages: Sequence[Record]) -> list[Behavior] | None:
    """All behaviours, if every message is one: the rules of behavior_of_message, asked of the batch as a whole.

    Four times as fast as asking each. It may answer None where all are good; it never lets one through that is not.
    """
    try:
        found = [_DECODE(message.value) for message in messages]  # type: ignore[arg-type]
    except (msgspec.DecodeError, ValueError, TypeError, RecursionError):
        return None
    if not found:
        return found
    keys, values = [one.user_id for one in found], [message.value or b"" for message in messages]
    times, first = [one.at for one in found], min([message.timestamp for message in messages])
    well = (
        [message.key for message in messages] == [key.encode() for key in keys]
        and min(times) >= 0
        and max(times) <= first / 1000 + FUTURE_S
        # a character is 4 bytes at most
        and max([abs(one.value) for one in found if one.value], default=0.0) <= MAX_VALUE
        and max(map(len, keys)) <= MAX_ID // 4
        and max([len(one.item_id) for one in found]) <= MAX_ID // 4
        and not any([b"\\" in value and b"\\u0000" in value for value in values])  # noqa: C419  NUL, as JSON has it
    )
    return found if well else None
