"""A bank as a memory-mapped file, for training: millions of vectors are read where they lie, none is held in memory.

<folder>/<bank id>/<digest of its keys>/ holds keys.npy (n,) of 16 bytes, ascending, and vectors.npy (n, d) float16.
The same vectors always make the same folder, so that two exports at once agree. A folder whose name begins with a dot
is one that is being written or removed: every other one is whole, and comes and goes by being renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from fusion.features.log import Array
from fusion.tables import bank_vectors
from interest.errors import ArtifactError

ABANDONED_S = 3_600.0  # an export to which nothing was written for so long was killed
READ_AT_ONCE = 2_000  # rows: 2 MB of a small LLM's vectors
KEY = np.dtype("S16")  # of one length, so that numpy's padding with zeros takes nothing away


@dataclass(frozen=True, slots=True)
class BankFile:
    """n vectors by key; both arrays are memory maps."""

    keys: Array  # (n,) of 16 bytes, ascending
    vectors: NDArray[np.float16]  # (n, d)

    def find(self, keys: Sequence[bytes]) -> Array:
        """Row of every key, (m,) int64; -1 for a key that the bank lacks."""
        wanted = np.array(keys, KEY)
        if not len(self.keys) or not len(wanted):
            return np.full(len(wanted), -1)
        rows = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[rows] == wanted, rows, -1)


def open_bank_file(
    connection: Connection, bank: str, keys: Sequence[bytes], folder: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> BankFile:  # fmt: skip
    """The bank's file, exported again from the store where no file has all of `keys`.

    Vectors never change, so an older file that has the keys is as good as a new one. `advance`: vectors written.
    Raises ArtifactError where the store lacks some of them.
    """
    for export in sorted((folder / bank).glob("[!.]*")):
        try:
            file = _open(export)
        except FileNotFoundError:  # another export has just removed it; otherwise it is broken
            _remove(export)
            continue
        if (file.find(keys) >= 0).all():
            return file
    file = _export(connection, bank, folder / bank, advance)
    missing = int((file.find(keys) < 0).sum())
    if missing:
        raise ArtifactError(f"bank {bank} lacks {missing:,} of {len(keys):,} vectors; run `interestream bank fill`")
    return file


def _export(connection: Connection, bank: str, folder: Path, advance: Callable[[int], None]) -> BankFile:
    """Export a bank to a file. Raises ArtifactError where the bank is empty.

    1. Read the bank and its size in one statement: what others add meanwhile is in both or in neither. 2. Write into a
    folder of its own, and map it there: another export may remove it as soon as it is in its place. 3. Move it to its
    place, unless another export was quicker. 4. Remove other exports, which others may read on, and what killed ones
    left.
    """
    of_bank = (bank_vectors.c.bank == bank, bank_vectors.c.vector.is_not(None))
    size_query = select(func.count()).select_from(bank_vectors).where(*of_bank).correlate(None).scalar_subquery()
    query = select(bank_vectors.c.key, bank_vectors.c.vector, size_query).where(*of_bank).order_by(bank_vectors.c.key)
    parts = connection.execute(query.execution_options(yield_per=READ_AT_ONCE)).partitions()  # 1
    first = next(parts, None)
    if first is None:
        raise ArtifactError(f"bank {bank} is empty; run `interestream bank fill`")
    _, vector, size = first[0]
    scratch = folder / f".{uuid.uuid4().hex}"
    scratch.mkdir(parents=True)
    try:
        keys = np.lib.format.open_memmap(scratch / "keys.npy", "w+", KEY, (size,))  # 2
        vectors = np.lib.format.open_memmap(scratch / "vectors.npy", "w+", np.dtype("<f2"), (size, len(vector) // 2))
        digest, row = hashlib.sha256(), 0
        for part in chain([first], parts):
            for key, vector, _ in part:
                keys[row], vectors[row] = bytes(key), np.frombuffer(vector, "<f2")
                digest.update(bytes(key))
                row += 1
            advance(len(part))
        keys.flush()
        vectors.flush()
        file = _open(scratch)
        target = folder / digest.hexdigest()[:16]
        with contextlib.suppress(OSError):  # another export was quicker
            scratch.rename(target)  # 3
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for other in folder.iterdir():
        if other != target and (not other.name.startswith(".") or _abandoned(other)):
            _remove(other)  # 4
    return file


def _remove(folder: Path) -> None:
    """Remove an export: by a rename first, so that a reader finds it whole or not at all."""
    hidden = folder.with_name(f".{uuid.uuid4().hex}")
    with contextlib.suppress(OSError):  # another process removes it
        folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _abandoned(scratch: Path) -> bool:
    try:
        written = [path.stat().st_mtime for path in (scratch, *scratch.iterdir())]
    except FileNotFoundError:  # it has just been finished
        return False
    return max(written) < time.time() - ABANDONED_S


def _open(folder: Path) -> BankFile:
    """Map an export. Raises FileNotFoundError where it does not exist, or no longer."""
    try:
        return BankFile(np.load(folder / "keys.npy", mmap_mode="r"), np.load(folder / "vectors.npy", mmap_mode="r"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder} is not a bank file ({error}); remove it") from None
