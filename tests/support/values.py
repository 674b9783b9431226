"""Random values of every kind that travels or is stored (hypothesis strategies, by type)."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st

from interest.llm.protocol import Message, Reply, Request
from interest.types import Behavior, Interest, Item, Outcome, Partition, Reason, Representation, Source, User
from streams.kafka.messages import InterestUpdate, RepresentationUpdate
from streams.ubsp.ingest import Position
from streams.ubsp.policy import Policy, Span

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
name = text.filter(bool)
number = st.floats(allow_nan=False, allow_infinity=False)
count = st.integers(0, 2**53)
texts = st.dictionaries(name, text, max_size=3)
VALUES: dict[type, st.SearchStrategy[Any]] = {
    Behavior: st.builds(
        Behavior, user_id=name, item_id=name, action=name, at=number, value=st.none() | number,
        scene=st.none() | text, event_id=st.none() | name,
    ),
    Item: st.builds(Item, item_id=name, title=text, categories=st.lists(text, max_size=3).map(tuple), attributes=texts),
    User: st.builds(User, user_id=name, attributes=texts),
    Partition: st.builds(
        Partition, user_id=name, index=count, generation=count, first_seq=count, last_seq=count,
        opened_at=number, closed_at=number, reason=st.sampled_from(Reason),
    ),
    Interest: st.builds(
        Interest, user_id=name, index=count, prompt_version=name, summary=text, shift=text, model=text, at=number,
        summary_source=st.sampled_from(Source), shift_source=st.sampled_from(Source),
        summary_outcome=st.sampled_from(Outcome), shift_outcome=st.sampled_from(Outcome),
        evidence=st.lists(count, max_size=3).map(tuple), claims=count, supported=count,
    ),
    Representation: st.builds(Representation, user_id=name, index=count, artifact=name, vector=st.binary(max_size=16)),
    InterestUpdate: st.builds(
        InterestUpdate, user_id=name, index=count, generation=count, prompt_version=name, summary=text, shift=text,
        summary_source=st.sampled_from(Source), shift_source=st.sampled_from(Source),
        summary_outcome=st.sampled_from(Outcome), shift_outcome=st.sampled_from(Outcome),
        evidence=st.lists(count, max_size=3).map(tuple), claims=count, supported=count, model=text,
        opened_at=number, closed_at=number, behaviors=count, reason=st.sampled_from(Reason),
    ),
    RepresentationUpdate: st.builds(
        RepresentationUpdate, user_id=name, index=count, generation=count, artifact=name,
        vector=st.lists(st.floats(width=32), max_size=4).map(lambda vector: struct.pack(f"<{len(vector)}f", *vector)),
    ),
    Request: st.builds(
        Request, opening=text,
        messages=st.lists(st.builds(Message, role=st.just("user"), content=text), min_size=1, max_size=2).map(tuple),
    ),
    Reply: st.builds(Reply, text=text, finish_reason=name, prompt_tokens=count, completion_tokens=count),
    Position: st.builds(Position, offset=count, watermark=st.none() | number, accepted=count),
    Policy: st.builds(
        Policy, count=st.none() | st.integers(1, 99), gap_s=st.just(5.0), span=st.none() | st.sampled_from(Span)
    ),
}  # fmt: skip
