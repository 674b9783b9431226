"""Messages of the compacted topics `items` and `users` become changes of the catalogue: the last of each key counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec
from sqlalchemy import Connection, Table, delete

from interest.store import counters
from interest.store.sql import item_row, upsert, user_row
from interest.store.tables import items, users
from interest.types import MAX_ID, Item, User
from streams.kafka.messages import wrong_key
from streams.stages.consumer.message import Record, Refused

T = TypeVar("T", Item, User)
_ITEM, _USER = msgspec.json.Decoder(Item), msgspec.json.Decoder(User)


class Changes(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """New values by key, None where it was removed; how many messages they come from; and what was unusable."""

    values: dict[str, T | None]
    count: int
    refused: Sequence[Refused]


def item_changes(messages: Iterable[Record], poison: Mapping[int, str]) -> Changes[Item]:
    return _changes(messages, poison, _ITEM, "item_id")


def user_changes(messages: Iterable[Record], poison: Mapping[int, str]) -> Changes[User]:
    return _changes(messages, poison, _USER, "user_id")


def _changes(
    messages: Iterable[Record], poison: Mapping[int, str], decoder: msgspec.json.Decoder[T], name: str
) -> Changes[T]:
    values: dict[str, T | None] = {}
    refused: list[Refused] = []
    count = 0
    for message in messages:
        try:
            if message.offset in poison:
                raise ValueError(f"the store refuses it: {poison[message.offset]}")  # noqa: TRY301  one way out
            key = _key(message.key, name)
            values[key] = None if message.value is None else _value(key, message.value, decoder, name)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            refused.append((message, str(error) or type(error).__name__))
        else:
            count += 1
    return Changes(values=values, count=count, refused=refused)


def _key(key: bytes | None, name: str) -> str:
    if not key:
        raise ValueError(f"the key is null or empty; key the message with its {name}")
    if b"\0" in key:
        raise ValueError("the key has a NUL character")
    if len(key) > MAX_ID:
        raise ValueError(f"{name} has {len(key):,} bytes; {MAX_ID:,} is the most")
    return key.decode()  # UnicodeDecodeError is a ValueError


def _value(key: str, value: bytes, decoder: msgspec.json.Decoder[T], name: str) -> T:
    found = decoder.decode(value)
    if getattr(found, name) != key:
        raise ValueError(wrong_key(key.encode(), name, getattr(found, name)))
    if b"\\u0000" in value and "\0" in repr(msgspec.to_builtins(found)).replace("\\x00", "\0"):
        raise ValueError("a text has a NUL character")
    return found


def apply(connection: Connection, changed: Mapping[str, Item | None], profiles: Mapping[str, User | None]) -> None:
    """Write the changes inside the caller's transaction."""
    found = sorted(changed.items())
    _remove(connection, items, "item_id", [key for key, item in found if item is None])
    upsert(connection, items, [item_row(item) for _, item in found if item is not None])
    people = sorted(profiles.items())
    _remove(connection, users, "user_id", [key for key, user in people if user is None])
    upsert(connection, users, [user_row(user) for _, user in people if user is not None])
    if changed:
        counters.increment(connection, counters.ITEMS)


def _remove(connection: Connection, table: Table, key: str, gone: Sequence[str]) -> None:
    for start in range(0, len(gone), 500):  # below every driver's limit on parameters
        connection.execute(delete(table).where(table.c[key].in_(gone[start : start + 500])))
