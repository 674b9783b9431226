"""Why a message cannot be used, in words that show what came."""

from __future__ import annotations

import msgspec
import pytest

from interest.types import Behavior
from streams.kafka.messages import Refusal, behavior_of_message

BEHAVIOR = Behavior(user_id="u1", item_id="i", action="play", at=1.0)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "the key is null"),
        (b'"u1"', """the key is not the user_id 'u1' but '"u1"'; key the message with the user_id without the JSON"""),
        (b"u2", "the key is not the user_id 'u1' but 'u2'; key the message with the user_id"),
        (b"\xff", r"the key is not the user_id 'u1' but '\\xff'"),
        (b"u" * 1_000, "but '" + "u" * 80 + "...'"),
    ],
)
def test_a_key_that_is_not_the_user_is_shown_as_it_came(key: bytes | None, reason: str) -> None:
    found = behavior_of_message(key, msgspec.json.encode(BEHAVIOR), produced_at=2.0)
    assert isinstance(found, Refusal)
    assert reason in found.reason
