"""Vectors of interest texts: reads the texts of interests, encodes them, and writes their vectors.

Reading and writing happen in transactions, encoding outside any. What is written is checked against the store in the
transaction that writes it: an interest that was forgotten or rewritten meanwhile gets no vectors of its old text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Select, and_, select, tuple_

from fusion.tables import vectors
from interest.store.sql import insert_new
from interest.store.tables import interests

KEYS_AT_ONCE = 200  # of four parameters each: below every driver's limit


class Encoder(Protocol):
    @property
    def id(self) -> str: ...
    def __call__(self, texts: list[str], /) -> NDArray[np.float32]: ...


class InterestKey(msgspec.Struct, frozen=True, order=True):
    """The key of an interest."""

    user_id: str
    generation: int
    index: int
    prompt_version: str


class InterestTexts(NamedTuple):
    """The texts of one interest."""

    key: InterestKey
    summary: str
    shift: str  # empty for a user's first partition


class EncodedInterest(NamedTuple):
    """An interest's texts and their vectors, float16, little endian, (d,)."""

    texts: InterestTexts
    summary: bytes
    shift: bytes | None


KEY_COLUMNS = [interests.c[name] for name in InterestKey.__struct_fields__]


def without_vectors(encoder_id: str) -> Select[Any]:
    """A query of the interests with a text and no vectors of this encoder: the key's columns, summary, shift."""
    return _texts().outerjoin(vectors, _same(encoder_id)).where(vectors.c.user_id.is_(None), interests.c.summary != "")


def texts_of_row(row: Sequence[Any]) -> InterestTexts:
    """A row of `without_vectors`."""
    return InterestTexts(InterestKey(*row[:4]), row[4], row[5])


def find_texts(
    connection: Connection, encoder_id: str, keys: Iterable[InterestKey]
) -> tuple[list[InterestTexts], list[InterestKey]]:
    """Of given interests: the texts that have no vectors yet, and the keys of all that are in the store."""
    query = _texts().add_columns(vectors.c.encoder).outerjoin(vectors, _same(encoder_id))
    rows = _by_key(connection, query, keys)
    waiting = [texts_of_row(row) for row in rows if row[6] is None and row[4].strip()]
    return waiting, [InterestKey(*row[:4]) for row in rows]


def encode_interests(encoder: Encoder, selected: Sequence[InterestTexts]) -> tuple[list[EncodedInterest], int]:
    """Encode summaries and shifts, equal texts once; how many texts that took. Empty texts are left out."""
    texts = list(
        dict.fromkeys(text for interest in selected for text in (interest.summary, interest.shift) if text.strip())
    )
    if not texts:
        return [], 0
    packed = {text: row.tobytes() for text, row in zip(texts, encoder(texts).astype("<f2"), strict=True)}
    encoded = [
        EncodedInterest(interest, packed[interest.summary], packed.get(interest.shift))
        for interest in selected
        if interest.summary in packed
    ]
    return encoded, len(texts)


def write_vectors(connection: Connection, encoder_id: str, encoded: Sequence[EncodedInterest]) -> list[InterestKey]:
    """Write the vectors whose texts are still the store's, and return their keys.

    On PostgreSQL the interests are held until the transaction ends, so that who forgets or rewrites one meanwhile waits
    and then finds these rows; SQLite has one writer.
    """
    locked = _texts().with_for_update(read=True)
    current = {texts_of_row(row) for row in _by_key(connection, locked, [interest.texts.key for interest in encoded])}
    unchanged = [interest for interest in encoded if interest.texts in current]
    insert_new(
        connection,
        vectors,
        [
            msgspec.structs.asdict(interest.texts.key)
            | {"encoder": encoder_id, "summary": interest.summary, "shift": interest.shift}
            for interest in unchanged
        ],
    )
    return [interest.texts.key for interest in unchanged]


def _texts() -> Select[Any]:
    return select(*KEY_COLUMNS, interests.c.summary, interests.c.shift).select_from(interests)


def _same(encoder_id: str) -> ColumnElement[bool]:
    return and_(
        *(vectors.c[name] == interests.c[name] for name in InterestKey.__struct_fields__),
        vectors.c.encoder == encoder_id,
    )


def _by_key(connection: Connection, query: Select[Any], keys: Iterable[InterestKey]) -> list[Any]:
    rows: list[Any] = []
    remaining = iter([msgspec.structs.astuple(key) for key in sorted(set(keys))])
    while page := list(islice(remaining, KEYS_AT_ONCE)):
        rows += connection.execute(query.where(tuple_(*KEY_COLUMNS).in_(page)).order_by(*KEY_COLUMNS))
    return rows
