"""Modalities of items: vectors of a picture, a sound, a text, by which items with different ids may look alike.

A modality is either what the user brought (`item_modalities`, by item) or the vectors of items' texts that the store
has. Vectors are read from the store in training and in scoring, so that an item that comes later has its own, and one
without has none: it is marked, and models have a learnt vector in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from sqlalchemy import Connection, func, select

from fusion.encoders.item_text import text_key
from fusion.features.log import Array
from fusion.features.match.item_vectors import item_texts, stored_vectors
from fusion.tables import item_modalities
from interest.errors import InputError, StoreError
from interest.types import Item

TEXT = "text"  # the name of the modality that is the texts' vectors
ITEMS_AT_ONCE = 500  # below every driver's limit on parameters
PADDING, MISSING, PRESENT = -1.0, 0.0, 1.0  # what stands before a modality's vector


class Modality(msgspec.Struct, frozen=True, kw_only=True):
    """One modality, and by what its vectors are standardised: one mean vector and one deviation of all dimensions."""

    name: str
    encoder: str = ""  # of texts: by which they were encoded; empty: the user brought the vectors
    template: str = ""  # of texts: how an item reads
    width: int = 0
    mean: tuple[float, ...] = ()
    scale: float = 1.0


def read_modalities(
    connection: Connection, modalities: Sequence[Modality], items: Sequence[str], catalogue: Mapping[str, Item]
) -> list[Array]:
    """Of each modality (I, w) float32, NaN where an item has none. catalogue: what texts are made of.

    Raises StoreError where the store's vectors are not as wide as those that were learnt.
    """
    return [
        (_texts if modality.encoder else _brought)(connection, modality, items, catalogue) for modality in modalities
    ]


def fit_modalities(modalities: Sequence[Modality], vectors: Sequence[Array], trained: Array) -> tuple[Modality, ...]:
    """With means and deviations over the items that training meets ((I,) bool). Numbers have six digits.

    Raises InputError for a modality that none of these items has.
    """
    fitted = []
    for modality, raw in zip(modalities, vectors, strict=True):
        held = raw[trained & has(raw)].astype(np.float64)
        if not len(held):
            remedy = "`interestream fuse`" if modality.encoder else f"--item-vectors {modality.name}=FILE.parquet"
            raise InputError(
                f"--modality {modality.name}: none of the {int(trained.sum()):,} items of the training part has a "
                f"vector in the store; give them by {remedy}"
            )
        mean = held.mean(axis=0)
        scale = float(np.sqrt(np.mean((held - mean) ** 2)))
        fitted.append(
            msgspec.structs.replace(
                modality,
                width=raw.shape[1],
                mean=tuple(float(f"{number:.6g}") for number in mean),
                scale=float(f"{scale:.6g}") if scale > 0 else 1.0,
            )
        )
    return tuple(fitted)


def standardised(modalities: Sequence[Modality], vectors: Sequence[Array]) -> Array:
    """(I + 1, W) float32: of each modality a mark and its vector, side by side; row 0 is padding, item i is row i + 1.

    vectors: as `read_modalities` gives them.
    """
    parts = []
    for modality, raw in zip(modalities, vectors, strict=True):
        there = has(raw)
        out = np.zeros((len(raw) + 1, modality.width + 1), np.float32)
        out[0, 0] = PADDING
        out[1:, 0] = np.where(there, PRESENT, MISSING)
        out[1:, 1:][there] = (raw[there] - np.array(modality.mean, np.float32)) / np.float32(modality.scale)
        parts.append(out)
    return np.concatenate(parts, axis=1)


def missing(modalities: Sequence[Modality], items: int) -> list[Array]:
    """Vectors of so many items of which nothing is known."""
    return [np.full((items, modality.width), np.nan, np.float32) for modality in modalities]


def padding(modalities: Sequence[Modality]) -> Array:
    """(1, W): the row of no item at all."""
    return standardised(modalities, missing(modalities, 0))


def lacking(modalities: Sequence[Modality], vectors: Array) -> Array:
    """(n,) bool: which items, of (n, W) by `standardised`, are without the vector of a text that may have one later."""
    marks = np.cumsum([0, *(modality.width + 1 for modality in modalities[:-1])])
    texts = [mark for mark, modality in zip(marks, modalities, strict=True) if modality.encoder]
    return np.asarray((vectors[:, texts] == MISSING).any(axis=1))


def has(vectors: Array) -> Array:
    """(I,) bool: which items have one."""
    if not vectors.shape[1]:
        return np.zeros(len(vectors), bool)
    return np.asarray(~np.isnan(vectors).any(axis=1))


def widths_in(connection: Connection) -> dict[str, int]:
    """The modalities that users brought, and how wide each is."""
    names = connection.scalars(select(item_modalities.c.modality).distinct().order_by(item_modalities.c.modality))
    width = select(func.length(item_modalities.c.vector)).limit(1)
    return {name: int(connection.scalars(width.where(item_modalities.c.modality == name)).one()) // 2 for name in names}


def _brought(connection: Connection, modality: Modality, items: Sequence[str], _catalogue: Mapping[str, Item]) -> Array:
    found: dict[str, Array] = {}
    wanted, table = list(dict.fromkeys(items)), item_modalities.c
    for start in range(0, len(wanted), ITEMS_AT_ONCE):
        query = select(table.item_id, table.vector).where(
            table.modality == modality.name, table.item_id.in_(wanted[start : start + ITEMS_AT_ONCE])
        )
        found |= {item: np.frombuffer(vector, "<f2") for item, vector in connection.execute(query)}
    return _stacked(modality, [found.get(item) for item in items])


def _texts(connection: Connection, modality: Modality, items: Sequence[str], catalogue: Mapping[str, Item]) -> Array:
    texts = item_texts(connection, modality.template, items, catalogue)
    keys = [text_key(text) if text else None for text in texts]
    found = stored_vectors(connection, modality.encoder, [key for key in keys if key is not None])
    return _stacked(modality, [None if key is None else found.get(key) for key in keys])


def _stacked(modality: Modality, vectors: Sequence[Array | None]) -> Array:
    width = modality.width or max((len(vector) for vector in vectors if vector is not None), default=0)
    out = np.full((len(vectors), width), np.nan, np.float32)
    for row, vector in enumerate(vectors):
        if vector is None:
            continue
        if len(vector) != width:
            raise StoreError(
                f"the store's {modality.name} vectors are {len(vector)} wide, and {width} were learnt; train again, or "
                f"bring those that were learnt under the name {modality.name}"
            )
        out[row] = vector
    return out
