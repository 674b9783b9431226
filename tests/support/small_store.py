"""A small store by hand: ann has three closed partitions and an open cache, bob an open cache only."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine

from fusion.tables import representations, vectors
from interest.store.sql import insert_new, item_row, user_row, writing
from interest.store.tables import answers, behaviors, interests, items, partitions, usage, users
from interest.types import Item, User
from streams.store.tables import offsets

AT = 890_014_400.0  # 1998-03-16 02:13:20 UTC
DAY = 86_400.0
ANN = "ann-q7x9zk"  # rare enough to be searched for in a file's bytes
SECRET = "Ann is fond of submarine operas"


def behavior(user_id: str, seq: int) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "seq": seq,
        "item_id": f"i{seq % 4}",
        "action": "rate",
        "at": AT + seq * DAY,
        "value": float(1 + seq % 5),
        "scene": None,
        "event_id": f"{user_id}-event-{seq}",
    }


def partition(user_id: str, index: int) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "generation": 0,
        "index": index,
        "first_seq": 4 * index,
        "last_seq": 4 * index + 3,
        "opened_at": AT + 4 * index * DAY,
        "closed_at": AT + (4 * index + 3) * DAY,
        "reason": "count",
    }


def interest(user_id: str, index: int, version: str = "plain-1", **changes: Any) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "generation": 0,
        "index": index,
        "prompt_version": version,
        "summary": f"{SECRET}, part {index}.",
        "summary_source": "llm",
        "summary_outcome": "ok",
        "shift": f"New in part {index}: whales." if index else "",
        "shift_source": "llm",
        "shift_outcome": "ok" if index else "sparse",
        "evidence": f"[{4 * index}, {4 * index + 1}]",
        "claims": 4,
        "supported": 3,
        "model": "small",
        "at": AT,
    } | changes


def fill(store: Engine) -> None:
    statistics = {"summary_source": "statistics", "summary_outcome": "rejected", "claims": 0, "supported": 0}
    vector = {"generation": 0, "prompt_version": "plain-1", "encoder": "e", "summary": b"\0\0", "shift": None}
    answer = {"key": "k1", "user_id": ANN, "reply": SECRET.encode()}
    counted = {"calls": 5, "cached": 2, "prompt_tokens": 500, "completion_tokens": 70, "seconds": 1.5}
    with writing(store) as connection:
        insert_new(connection, items, [item_row(Item(item_id="i0", title="Das Boot (1981)"))])
        insert_new(connection, items, [item_row(Item(item_id=f"i{n}", title=f"Film {n}")) for n in (1, 2)])
        insert_new(connection, users, [user_row(User(user_id=ANN, attributes={"age": "24", "gender": "F"}))])
        insert_new(connection, behaviors, [behavior(ANN, seq) for seq in range(14)])
        insert_new(connection, behaviors, [behavior("bob", seq) for seq in range(3)])
        insert_new(connection, partitions, [partition(ANN, index) for index in range(3)])
        insert_new(connection, interests, [interest(ANN, 0), interest(ANN, 1, **statistics)])
        insert_new(connection, vectors, [vector | {"user_id": ANN, "index": index} for index in range(2)])
        one = {"user_id": ANN, "generation": 0, "artifact": "pooled:e:plain-1", "vector": b"\0\0\0\0"}
        insert_new(connection, representations, [one | {"index": index} for index in range(2)])
        insert_new(connection, answers, [answer])
        insert_new(connection, usage, [{"model": "small", "prompt_version": "plain-1", "kind": "summary"} | counted])
        progress = {"offset": 21, "watermark": AT, "accepted": 17, "late": 1, "duplicates": 3, "rejected": 1}
        insert_new(connection, offsets, [{"source": "log:a", "partition": 0} | progress])
        insert_new(connection, offsets, [{"source": "log:b", "partition": 0} | progress | {"accepted": 0}])


def fill_two_partitions(store: Engine, catalogue: list[Item]) -> None:
    """User u with two partitions of six ratings each, of the items 0 and 1 in turn."""
    rows = [
        {"user_id": "u", "seq": seq, "item_id": str(seq % 2), "action": "rate", "at": float(seq), "value": 4.0}
        for seq in range(12)
    ]
    heads = [
        {"user_id": "u", "generation": 0, "index": index, "first_seq": 6 * index, "last_seq": 6 * index + 5}
        | {"opened_at": 6.0 * index, "closed_at": 6.0 * index + 5, "reason": "count"}
        for index in range(2)
    ]
    with writing(store) as connection:
        insert_new(connection, behaviors, rows)
        insert_new(connection, partitions, heads)
        insert_new(connection, items, [item_row(item) for item in catalogue])
