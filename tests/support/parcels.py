"""A tiny source of `interestream fetch`: a wheel that is written on the spot."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

from streams.fetch.download import sha256
from streams.fetch.sources import Source
from streams.fetch.wheels import Wheel

CONTENT = {"parcel/data/a.txt": b"alpha\n" * 1000, "parcel/data/deep/b.txt": b"beta\n"}


def nothing(_: object) -> None:
    """Takes messages and progress, and shows neither."""


def parcel(index: Path, content: dict[str, bytes] = CONTENT) -> Source:
    """A source whose wheel is written to the folder `index`; the same content gives the same wheel."""
    index.mkdir(exist_ok=True)
    file = index / "parcel-1.0-py3-none-any.whl"
    info = "parcel-1.0.dist-info/"
    meta = {
        info + "METADATA": b"Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\n",
        info + "WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        info + "RECORD": b"",
    }
    draft = index / f"draft-{os.getpid()}"
    with zipfile.ZipFile(draft, "w") as archive:
        for name, data in (content | meta).items():
            archive.writestr(zipfile.ZipInfo(name), data)
    draft.replace(file)
    return Source(
        name="parcel",
        wheel=Wheel(
            requirement="parcel==1.0",
            filename=file.name,
            sha256=sha256(file),
            size=file.stat().st_size,
            files={name: hashlib.sha256(data).hexdigest() for name, data in content.items()},
        ),
        strip="parcel/data/",
        note="free to use\n",
        disk=1000,
    )
