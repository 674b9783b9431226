"""Decoding a batch as a whole gives what decoding each message by itself gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from interest.types import Behavior
from streams.kafka.messages import Refusal, behavior_of_message
from streams.stages.ingest.decode import decode

PRODUCED_AT = 1_700_000_000.0
text = st.sampled_from(["ann", "bob", "", "a\0b", "ü", "x" * 5000, "\\u0000"])
value = st.fixed_dictionaries(
    {"user_id": text, "item_id": text, "action": st.just("rate")},
    optional={
        "at": st.sampled_from(
            [PRODUCED_AT, 0, -1, PRODUCED_AT + 86_400, PRODUCED_AT + 86_401, PRODUCED_AT * 1000, "now"]
        ),
        "value": st.sampled_from([None, 1, "one"]),
        "scene": st.none() | text,
        "event_id": st.none() | text,
    },
)
raw = st.none() | st.binary(max_size=4) | value.map(msgspec.json.encode)
good = st.sampled_from(["ann", "bob", "ü"]).map(
    lambda user: (
        user.encode(),
        msgspec.json.encode(Behavior(user_id=user, item_id="i", action="rate", at=PRODUCED_AT)),
    )
)


def key_of(body: bytes | None, other: bytes | None) -> bytes | None:
    """Mostly the right key, so that the other rules are reached."""
    try:
        return other if other is not None else str(msgspec.json.decode(body or b"")["user_id"]).encode()
    except (msgspec.DecodeError, TypeError, KeyError, UnicodeDecodeError):
        return other


any_message = st.tuples(st.sampled_from([None, None, None, b"ann"]), raw).map(
    lambda pair: (key_of(pair[1], pair[0]), pair[1])
)


@given(st.lists(good | any_message, max_size=6))
def test_a_batch_decodes_as_its_messages_do(pairs: list[tuple[Any, Any]]) -> None:
    messages = [
        SimpleNamespace(topic="t", partition=0, offset=offset, timestamp=int(PRODUCED_AT * 1000), key=key, value=body)
        for offset, (key, body) in enumerate(pairs)
    ]
    singly = [(one, behavior_of_message(one.key, one.value, PRODUCED_AT)) for one in messages]
    found = decode(messages, {})
    assert list(found.behaviors) == [one for _, one in singly if not isinstance(one, Refusal)]
    assert list(found.origins) == [message for message, one in singly if not isinstance(one, Refusal)]
    assert list(found.refused) == [(message, one.reason) for message, one in singly if isinstance(one, Refusal)]
