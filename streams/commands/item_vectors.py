"""What --item-vectors does: files of items' vectors into the store, with progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


def bring_files(engine: Engine, given: Sequence[str]) -> list[str]:
    """The modalities of files given as NAME=FILE.parquet, which are in the store then; says how many vectors.

    Raises InputError, naming the file and the row, for what cannot be used.
    """
    from fusion.interests.item_modalities import bring
    from interest.store import counters
    from streams.files.item_vectors import open_vectors
    from streams.progress import progress

    def count(connection: Connection) -> None:
        counters.increment(connection, counters.ITEMS)  # scorers read items again whose vectors may be others now

    files = [open_vectors(one) for one in given]
    for file in files:
        with progress(f"Reading {file.modality} vectors", file.rows, unit="items") as advance:
            done = bring(engine, file.modality, file.width, file.chunks(), written=count, advance=advance)
        print(f"{done:,} {file.modality} vectors of {file.width} numbers from {file.path}")
    return [file.modality for file in files]
