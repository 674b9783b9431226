"""The int8 form of an LLM's checkpoint, made once and kept in the cache under the checkpoint's fingerprint."""

from __future__ import annotations

from pathlib import Path

from interest.llm.gather import fingerprint
from interest.llm.int8 import RECIPE, convert
from streams.fetch.download import is_whole, locked, put_in_place, staging
from streams.fetch.wheels import Say
from streams.settings.load import cache_folder


def int8_weights(folder: Path, *, say: Say) -> Path:
    """The folder of a checkpoint's int8 weights, which are made of it unless they are there.

    A kill leaves none of it, a second process that wants the same waits. Raises InputError as
    `interest.llm.int8.convert` does, and where the cache cannot be written to.
    """
    version = fingerprint(folder)
    target = cache_folder() / "int8" / f"{folder.name}-{version}"
    with locked(target, say):
        if is_whole(target, folder.name, version, RECIPE):
            return target
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        with staging(target, size) as work:  # one byte a weight, of two or four
            say(f"{folder.name}: converting to int8, once (up to a minute)")
            built = work / "built"
            built.mkdir()
            convert(folder, built)
            put_in_place(built, target, folder.name, version, RECIPE)
            say(f"{folder.name}: int8 weights are in {target}")
    return target
