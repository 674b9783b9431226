"""Folders for what a process needs while it runs, in the system's temporary folder.

A process that is killed leaves its folder behind; the next one that makes such a folder removes it. Whether somebody
still works in one is told by a lock, which the system gives free however its holder ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".lock"  # folders without one are not ours to remove: others', or an earlier version's, which may be in use


@contextmanager
def temporary_folder(kind: str) -> Iterator[Path]:
    """A new folder, interestream-KIND-..., removed in the end; with it those that killed processes left."""
    prefix = f"interestream-{kind}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _remove_if_left(left)
    folder, lock = _made(prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _made(prefix: str) -> tuple[Path, int]:
    """The folder, and its lock's descriptor."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (folder / LOCK).exists():
                return folder, lock
        os.close(lock)  # another process took it, between the two, for one that was left


def _remove_if_left(folder: Path) -> None:
    """Remove a folder of this user's in which no process works."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # not ours, or gone meanwhile
        return
    try:
        if os.fstat(lock).st_uid == os.getuid() and not folder.is_symlink():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # somebody works in it
        return
    finally:
        os.close(lock)
