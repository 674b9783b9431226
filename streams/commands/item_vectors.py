"""What --item-vectors and --drop-item-vectors do: files of vectors of items into the store, with progress, or out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from interest.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from streams.files.item_vectors import Found, VectorFile

MANY = 0.1  # share of vectors that are 0 from which a file is warned of


def bring_files(engine: Engine, given: Sequence[str]) -> list[str]:
    """The modalities of files given as NAME=FILE.parquet, which are in the store then; says how many vectors, and of
    which share of the store's items.

    Every file is read whole before the first vector is written. Raises InputError, naming the file and the row, for
    what cannot be used, and for a file of other items than the store's.
    """
    from fusion.interests.item_modalities import bring, check_width, items_with, known_items
    from streams.files.item_vectors import open_vectors
    from streams.progress import progress

    files = []
    for file in map(open_vectors, given):
        found = file.found()
        with engine.connect() as connection:
            check_width(connection, file.modality, file.width)
            place, known = known_items(connection, found.items)
        if known and not known & found.items:
            raise InputError(
                f"{file.path}: its column item_id names no item of the store's {place}: it has {_some(found.items)}, "
                f"the {place} {_some(known)}; write the {place}'s ids, or check --store"
            )
        files.append((file, found, place, known))
    for file, found, place, known in files:
        with progress(f"Reading {file.modality} vectors", len(found.items), unit="items") as advance:
            done = bring(engine, file.modality, file.width, file.chunks(), advance=advance)
        with engine.connect() as connection:
            have = len(items_with(connection, file.modality) & known)
        print(
            f"{done:,} {file.modality} vectors of {file.width} numbers from {file.path}; {have:,} of {len(known):,} "
            f"items of the {place} have one"
        )
        _warn(file, found)
    return [file.modality for file, *_ in files]


def drop_vectors(engine: Engine, modalities: Sequence[str]) -> None:
    """Remove what --item-vectors brought by these names. Raises InputError for one that the store does not have."""
    from fusion.interests.item_modalities import drop

    for name in modalities:
        print(f"{drop(engine, name):,} {name} vectors removed; models that learnt them score items as without one")


def _some(ids: set[str]) -> str:
    return ", ".join(sorted(ids)[:3]) + (" ..." if len(ids) > 3 else "")


def _warn(file: VectorFile, found: Found) -> None:
    """Of rows that do not count, and of vectors that tell items apart badly."""
    if found.repeated:
        print(
            f"warning: {file.path}: {found.repeated:,} rows are of items that a later row has as well; the last of an "
            "item's rows counts",
            file=sys.stderr,
            flush=True,
        )
    told = ""
    if found.same and len(found.items) > 1:
        told = "all vectors are the same, and tell no item from another"
    elif found.zeros > MANY * len(found.items):
        told = f"{found.zeros:,} of {len(found.items):,} vectors are 0; leave out those of items that have none"
    if told:
        print(f"warning: {file.path}: {told}", file=sys.stderr, flush=True)
