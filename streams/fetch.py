"""Fetches a wheel from the package index and makes a folder of it: whole or not at all, checked by sha256.

A fetched folder carries `manifest.json`, the sha256 of every file in it; a folder that does not agree with its manifest
is made anew. Work happens in a hidden folder beside it and ends with one rename, so a kill at any moment leaves
either the whole folder or none. A lock a folder lets one fetch work and the others wait for its result.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from interest.errors import InputError
from streams.sources import Source, Wheel

MANIFEST = "manifest.json"
Say = Callable[[str], None]
Advance = Callable[[int], None]


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
    with claimed(folder, say):  # 1
        if is_whole(folder, source.wheel.requirement, source.wheel.sha256, source.recipe):
            advance(source.wheel.size // 1000)
            return False
        with staging(folder, source.disk) as work:
            wheel = _wheel(source.wheel, folder.parent / "wheels", work, say, advance)  # 2
            say(f"{source.name}: unpacking")
            unpacked = work / "unpacked"
            _unpack(wheel, source.wheel, source.strip, unpacked)  # 3
            result = unpacked
            if source.build:
                say(f"{source.name}: converting (about a minute)")
                result = work / "built"
                result.mkdir()
                source.build(unpacked, result)
            if source.note:
                (result / "NOTE.txt").write_text(source.note, encoding="utf-8")
            say(f"{source.name}: checking")
            settle(result, folder, source.wheel.requirement, source.wheel.sha256, source.recipe)  # 4
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


def settle(result: Path, folder: Path, origin: str, origin_sha256: str, recipe: int = 1) -> None:
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


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def claimed(folder: Path, say: Say) -> Iterator[None]:
    """Hold the folder's lock: a second fetch waits here, and then finds the first one's result."""
    with _readable_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"{folder.name}: another fetch is at work on it; waiting")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def staging(folder: Path, needed: int) -> Iterator[Path]:
    """A hidden folder to work in beside `folder`; it and what a killed run left of it are removed."""
    with _readable_errors(folder):
        for left in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(left, ignore_errors=True)
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
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            remedy = f"{error.strerror}; set INTERESTREAM_CACHE to a folder that you may write to"
        else:
            raise
        raise InputError(f"cannot write to the cache {folder.parent}: {remedy}") from error


def _wheel(wheel: Wheel, kept: Path, work: Path, say: Say, advance: Advance) -> Path:
    """The wheel's file in the folder `kept`, downloaded unless a good copy lies there."""
    kept.mkdir(exist_ok=True)
    file = kept / wheel.filename
    if file.is_file():
        if sha256(file) == wheel.sha256:
            advance(wheel.size // 1000)
            return file
        say(f"{file.name}: the copy in {kept} is damaged; downloading it again")
        file.unlink()
    say(f"downloading {wheel.requirement} ({wheel.size / 1e6:,.0f} MB)")
    downloaded = _download(wheel, work, kept, advance)
    found = sha256(downloaded)
    if found != wheel.sha256:
        raise InputError(
            f"{wheel.filename} from the package index has the sha256 {found}, not {wheel.sha256}: "
            "it is not the file this version was made for, and it was not used"
        )
    downloaded.rename(file)
    return file


def _download(wheel: Wheel, work: Path, kept: Path, advance: Advance) -> Path:
    """`pip download`, which knows the machine's index, proxies and certificates. Progress is read off its folder."""
    if importlib.util.find_spec("pip") is None:
        raise InputError(
            "pip is not in this environment; install it with `python -m ensurepip` or `uv pip install pip`"
        )
    target, scratch = work / "wheel", work / "pip"
    target.mkdir()
    scratch.mkdir()
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--ignore-requires-python",
        "--disable-pip-version-check",
        "--no-input",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, "--progress-bar=off", "--dest", str(target)]
    log = work / "pip.log"
    done = 0
    with log.open("wb") as stream:
        pip = subprocess.Popen(
            [*command, wheel.requirement],
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(scratch)},
        )
        try:
            while pip.poll() is None:
                time.sleep(0.1)
                here = min(_bytes_under(scratch), wheel.size) // 1000
                if here > done:
                    advance(here - done)
                    done = here
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
    file = target / wheel.filename
    if pip.returncode or not file.is_file():
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        cause = next((line for line in said if "ERROR" in line), said[-1] if said else f"exit status {pip.returncode}")
        raise InputError(
            f"pip could not download {wheel.requirement}: {cause.removeprefix('ERROR: ')}\n"
            "Check the network and pip's index (`pip config list`), then run the same command again; or, on a machine with "
            f"a network, run `pip download --no-deps {wheel.requirement}` and copy {wheel.filename} into {kept}"
        )
    advance(max(wheel.size // 1000 - done, 0))
    return file


def _bytes_under(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except FileNotFoundError:  # pip has moved it on
                continue
    return total


def _unpack(file: Path, wheel: Wheel, strip: str, unpacked: Path) -> None:
    unpacked.mkdir()
    with zipfile.ZipFile(file) as archive:
        for name, known in wheel.files.items():
            target = unpacked / name.removeprefix(strip)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as packed, target.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
            if sha256(target) != known:
                raise InputError(f"{name} in {wheel.filename} does not have the sha256 {known}; it was not used")
