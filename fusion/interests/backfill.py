"""Backfill of vectors and pooled representations for a store's interests: one row of each for every partition.

Works off what the store lacks, a chunk at a time: vectors and the pooled representations that they change are written
in one transaction, so a run that was killed goes on where it stopped, and the store ends the same in one run or in ten.
A partition whose interest came late (after newer ones were pooled) has the newer ones pooled again. The stream's fusion
stage calls the same functions for the interests of its messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import Engine, func, select, tuple_

from fusion.interests.pool import HALF_LIFE, window
from fusion.interests.pooled_rows import (
    History,
    VectorSource,
    lock_users,
    pooled_id,
    unrepresented,
    users_behind,
    write_pooled,
)
from fusion.interests.text_vectors import (
    KEY_COLUMNS,
    Encoder,
    InterestKey,
    InterestTexts,
    encode_interests,
    texts_of_row,
    without_vectors,
    write_vectors,
)
from interest.store.sql import writing
from interest.store.tables import interests

CHUNK = 64  # interests a transaction: a second or two of work on one core, and 100 KB of vectors
USERS = 200  # users a transaction, where vectors are there and only pools are missing


@dataclass(frozen=True, slots=True)
class FuseResult:
    """What one run of `fuse` added."""

    encoded: int  # interests
    texts: int  # distinct texts encoded for them, chunk by chunk
    pooled: int  # representations
    artifacts: tuple[str, ...]  # their artifact ids


def fuse(
    engine: Engine,
    encoder: Encoder,
    prompt_version: str | None = None,
    *,
    half_life: float = HALF_LIFE,
    advance: Callable[[int], None] = lambda _: None,
) -> FuseResult:
    """Bring `vectors` and the pooled `representations` up to the store's interests (of one prompt version, or of all).

    `advance` is called with the interests encoded. `half_life` is in partitions; one other than the default is named in
    the artifact id. The encoder is called only where an interest waits.
    """
    window(half_life)  # an impossible one fails before any work
    encoded = texts = pooled = 0
    for chunk in _chunks(engine, encoder.id, prompt_version):
        encoded_chunk, count = encode_interests(encoder, chunk)
        with writing(engine) as connection:
            lock_users(connection, (interest.key.user_id for interest in chunk))
            written = write_vectors(connection, encoder.id, encoded_chunk)
            for view, firsts in first_changed(encoder.id, written).items():
                pooled += write_pooled(connection, view, half_life, firsts)
        texts += count
        encoded += len(chunk)
        advance(len(chunk))
    late, artifacts = catch_up(engine, encoder.id, prompt_version, half_life=half_life)
    return FuseResult(encoded, texts, pooled + late, artifacts)


def catch_up(
    engine: Engine, encoder_id: str, prompt_version: str | None = None, *, half_life: float = HALF_LIFE
) -> tuple[int, tuple[str, ...]]:
    """Pool partitions that have vectors and no pool (a new half-life, say): how many, and the pools' artifact ids."""
    window(half_life)
    versions = [prompt_version] if prompt_version else _versions(engine)
    pooled = sum(_pool_missing(engine, VectorSource(encoder_id, version), half_life) for version in versions)
    return pooled, tuple(pooled_id(encoder_id, version, half_life) for version in versions)


def count_waiting(engine: Engine, encoder_id: str, prompt_version: str | None = None) -> int:
    """How many interests have no vectors of this encoder yet."""
    query = without_vectors(encoder_id)
    if prompt_version:
        query = query.where(interests.c.prompt_version == prompt_version)
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(query.subquery())) or 0


def first_changed(encoder_id: str, keys: Iterable[InterestKey]) -> dict[VectorSource, dict[History, int]]:
    """By vector source and history, the first partition whose representation these interests change."""
    changed: dict[VectorSource, dict[History, int]] = {}
    for key in keys:
        firsts = changed.setdefault(VectorSource(encoder_id, key.prompt_version), {})
        history = History(key.user_id, key.generation)
        firsts[history] = min(firsts.get(history, key.index), key.index)
    return changed


def _chunks(engine: Engine, encoder_id: str, prompt_version: str | None) -> Iterator[Sequence[InterestTexts]]:
    """The interests without vectors, in order of their key; each chunk starts after the last one's key."""
    query = without_vectors(encoder_id).order_by(*KEY_COLUMNS).limit(CHUNK)
    if prompt_version:
        query = query.where(interests.c.prompt_version == prompt_version)
    after: tuple[object, ...] | None = None
    while True:
        with engine.connect() as connection:
            page_query = query if after is None else query.where(tuple_(*KEY_COLUMNS) > tuple_(*after))
            page = [texts_of_row(row) for row in connection.execute(page_query)]
        if not page:
            return
        yield page
        after = msgspec.structs.astuple(page[-1].key)


def _versions(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return sorted(connection.scalars(select(interests.c.prompt_version).distinct()))


def _pool_missing(engine: Engine, view: VectorSource, half_life: float) -> int:
    artifact = pooled_id(view.encoder, view.prompt_version, half_life)
    with engine.connect() as connection:
        behind = users_behind(connection, view, artifact)
    added = 0
    for start in range(0, len(behind), USERS):
        page = behind[start : start + USERS]
        with writing(engine) as connection:
            lock_users(connection, page)
            added += write_pooled(connection, view, half_life, unrepresented(connection, view, artifact, page))
    return added
