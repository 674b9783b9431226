"""Vectors of items' texts as the store has them, for the items of a log or of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sqlalchemy import Connection, select

from fusion.encoders.item_text import catalogue_text, text_key, uses_description
from fusion.features.log import Array
from fusion.features.match.features import MatchSpec
from fusion.features.match.years import year_vectors
from fusion.tables import item_vectors
from interest.store.descriptions import read_descriptions
from interest.types import Item

KEYS_AT_ONCE = 500  # below every driver's limit on parameters


def read_item_vectors(
    connection: Connection, spec: MatchSpec, items: Sequence[str], catalogue: Mapping[str, Item]
) -> Array | None:
    """(I, d) float32 of items by their texts of today; zeros where the catalogue or the store has none.

    None where the spec reads neither texts nor years. The width is that of the vectors in the store; a spec that reads
    years has them behind the texts (`fusion.features.match.years`).
    """
    texts = _text_vectors(connection, spec, items, catalogue)
    if "year" not in spec.parts:
        return texts
    years = year_vectors(items, catalogue)
    return years if texts is None else np.hstack([texts, years])


def _text_vectors(
    connection: Connection, spec: MatchSpec, items: Sequence[str], catalogue: Mapping[str, Item]
) -> Array | None:
    if not spec.encoder:
        return None
    texts = item_texts(connection, spec.template, items, catalogue)
    keys = [text_key(text) if text else None for text in texts]
    found = stored_vectors(connection, spec.encoder, [key for key in keys if key is not None])
    return stack_vectors(keys, found)


def item_texts(connection: Connection, template: str, items: Sequence[str], catalogue: Mapping[str, Item]) -> list[str]:
    """How items read by a template: by the catalogue, and by the store's descriptions where the template has them."""
    described = read_descriptions(connection, items) if uses_description(template) else {}
    return [
        catalogue_text(template, catalogue.get(item), described[item].text if item in described else "")
        for item in items
    ]


def stored_vectors(connection: Connection, encoder: str, keys: Sequence[bytes]) -> dict[bytes, Array]:
    """(d,) float16 by text key, of those keys that the store has."""
    wanted = list(dict.fromkeys(keys))
    found: dict[bytes, Array] = {}
    for start in range(0, len(wanted), KEYS_AT_ONCE):
        page = wanted[start : start + KEYS_AT_ONCE]
        query = select(item_vectors.c.key, item_vectors.c.vector)
        rows = connection.execute(query.where(item_vectors.c.encoder == encoder, item_vectors.c.key.in_(page)))
        found |= {bytes(key): np.frombuffer(vector, "<f2") for key, vector in rows}
    return found


def stack_vectors(keys: Sequence[bytes | None], found: Mapping[bytes, Array]) -> Array:
    """(n, d) float32 in the order of the keys; a row of zeros where there is no text or no vector."""
    width = max((len(vector) for vector in found.values()), default=0)
    out = np.zeros((len(keys), width), np.float32)
    for row, key in enumerate(keys):
        if key is not None and (vector := found.get(key)) is not None:
            out[row] = vector
    return out


def encoders_of_items(connection: Connection) -> list[str]:
    """The encoders that the store has vectors of items by."""
    return sorted(connection.scalars(select(item_vectors.c.encoder).distinct()))
