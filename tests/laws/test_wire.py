"""Every value that travels or is stored comes back as it went, as JSON and as MessagePack."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select

from interest.store.sql import behavior_of, item_row, read_items, read_users, upsert, user_row, writing
from interest.store.tables import behaviors, items, users
from interest.types import Behavior, Item, User
from streams.kafka.messages import Refusal, RepresentationUpdate, behavior_of_message
from streams.ubsp.fold import Verdict
from tests.support.partitioning import empty
from tests.support.values import VALUES

LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack], ids=["json", "msgpack"])
@given(data=st.data())
def test_a_value_comes_back_as_it_went(kind: type, codec: Any, data: st.DataObject) -> None:
    value = data.draw(VALUES[kind])
    assert codec.decode(codec.encode(value), type=kind) == value


@given(VALUES[Behavior])
def test_a_behaviour_through_kafka_is_the_same_to_the_bit(behavior: Behavior) -> None:
    value = msgspec.json.encode(behavior)
    assert None not in msgspec.json.decode(value).values()  # what is not known takes no room on the wire
    got = behavior_of_message(behavior.user_id.encode(), value, produced_at=1e300)
    has_nul = any("\0" in text for text in msgspec.structs.astuple(behavior) if isinstance(text, str))
    too_large = behavior.value is not None and abs(behavior.value) > LARGEST
    if behavior.at < 0 or behavior.at > 1e300 or has_nul or too_large:
        assert isinstance(got, Refusal)
    else:
        assert isinstance(got, Behavior)
        assert got == behavior
        assert struct.pack("<d", got.at) == struct.pack("<d", behavior.at)


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=8))
def test_a_vector_comes_back_as_floats(vector: list[float]) -> None:
    update = RepresentationUpdate(user_id="u", index=0, artifact="a", vector=struct.pack(f"<{len(vector)}f", *vector))
    again = msgspec.json.decode(msgspec.json.encode(update), type=RepresentationUpdate)
    assert list(again.floats()) == vector


@given(st.lists(VALUES[Behavior], max_size=5), st.lists(VALUES[Item], max_size=3), st.lists(VALUES[User], max_size=3))
def test_a_stored_value_comes_back_as_it_went(log: list[Behavior], catalogue: list[Item], people: list[User]) -> None:
    engine = empty()
    wanted_items = {item.item_id: item for item in catalogue}
    wanted_users = {user.user_id: user for user in people}
    with writing(engine) as connection:
        for seq, behavior in enumerate(log):
            connection.execute(insert(behaviors).values(seq=seq, **msgspec.structs.asdict(behavior)))
        upsert(connection, items, [item_row(item) for item in wanted_items.values()])
        upsert(connection, users, [user_row(user) for user in wanted_users.values()])
    with engine.connect() as connection:
        rows = connection.execute(select(behaviors).order_by(behaviors.c.seq)).mappings()
        assert [behavior_of(row) for row in rows] == log
        assert read_items(connection) == wanted_items
        assert read_users(connection) == wanted_users
    engine.dispose()


@pytest.mark.parametrize(
    "broken",
    [{"user_id": ""}, {"item_id": ""}, {"at": float("nan")}, {"at": float("inf")}, {"value": float("nan")}],
)
def test_an_invalid_behaviour_cannot_be_built(broken: dict[str, Any]) -> None:
    good = {"user_id": "u", "item_id": "i", "action": "a", "at": 1.0}
    with pytest.raises(ValueError, match=r"empty|not a"):
        Behavior(**{**good, **broken})


def test_verdicts_are_what_the_offsets_table_counts() -> None:
    assert {verdict.value for verdict in Verdict} == {"accepted", "late", "duplicate"}
