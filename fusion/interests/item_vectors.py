"""Vectors of items' texts in the store: encodes what the catalogue says and has no vector yet, removes what it says no
longer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from sqlalchemy import Connection, Engine, delete, select

from fusion.encoders.item_text import text_key
from fusion.features.match.item_vectors import KEYS_AT_ONCE, item_texts
from fusion.interests.text_vectors import Encoder
from fusion.tables import item_vectors
from interest.store.sql import insert_new, read_items, writing

CHUNK = 64  # texts a transaction: under a second on one core, and 50 KB of vectors


def texts_without_vectors(
    connection: Connection, encoder_id: str, template: str, items: Iterable[str] | None = None
) -> list[str]:
    """Distinct texts of the catalogue's items (or only of `items`) that the store has no vector of by this encoder."""
    catalogue = read_items(connection, items)
    keys = {text_key(text): text for text in item_texts(connection, template, list(catalogue), catalogue) if text}
    held: set[bytes] = set()
    for page in _pages(list(keys)):
        query = select(item_vectors.c.key).where(item_vectors.c.encoder == encoder_id, item_vectors.c.key.in_(page))
        held.update(bytes(key) for key in connection.scalars(query))
    return [text for key, text in keys.items() if key not in held]


def encode_items(
    engine: Engine,
    encoder: Encoder,
    texts: list[str],
    advance: Callable[[int], None] = lambda _: None,
    *,
    written: Callable[[Connection], None] = lambda _: None,
) -> int:
    """Encode texts and write their vectors, a chunk at a time, so that a run that was killed goes on where it stopped.

    Encoding happens outside any transaction. written: is called at the end of each. Returns how many texts were
    encoded.
    """
    for start in range(0, len(texts), CHUNK):
        some = texts[start : start + CHUNK]
        rows = [
            {"encoder": encoder.id, "key": text_key(text), "vector": vector.tobytes()}
            for text, vector in zip(some, encoder(some).astype("<f2"), strict=True)
        ]
        with writing(engine) as connection:
            insert_new(connection, item_vectors, rows)
            written(connection)
        advance(len(some))
    return len(texts)


def collect_item_garbage(engine: Engine, template: str) -> int:
    """Remove the vectors of texts that the catalogue does not make any more; return how many.

    Keys are read before texts: an item that comes in meanwhile has its vector among what stays.
    """
    with engine.connect() as connection:
        keys = {bytes(key) for key in connection.scalars(select(item_vectors.c.key).distinct())}
    with engine.connect() as connection:
        catalogue = read_items(connection)
        texts = item_texts(connection, template, list(catalogue), catalogue)
    gone = sorted(keys.difference(map(text_key, texts)))
    removed = 0
    for page in _pages(gone):
        with writing(engine) as connection:
            removed += connection.execute(delete(item_vectors).where(item_vectors.c.key.in_(page))).rowcount
    return removed


def _pages(keys: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), KEYS_AT_ONCE):
        yield keys[start : start + KEYS_AT_ONCE]
