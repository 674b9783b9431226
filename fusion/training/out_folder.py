"""What a run may write over: the folder of `--out` is new or empty, or holds what a run of the same kind left there."""

from __future__ import annotations

import os
from pathlib import Path

from fusion.models.registry import KINDS
from fusion.training import curves
from fusion.training.artifact import FILES, PRETRAINING, kind_in
from fusion.training.checkpoint import NAME, run_in
from interest.errors import InputError

ENCODER = tuple(name for name in FILES if name != "statistics.safetensors")
BY_CLASS = {"Pretraining": PRETRAINING} | {kind.model.__name__: kind.name for kind in KINDS.values()}
NAMED = 3  # of foreign files, in the error
OTHERWISE = "give another folder, or remove what is there first"


def check_out(folder: Path, kind: str) -> None:
    """Raises InputError, saying what is there, where a `kind` (of `fusion.models`, or PRETRAINING) may not be written.

    It reads file names and headers only, so that a run says so before anything else.
    """
    check_place(folder)
    if not folder.exists():
        return
    if held := kind_in(folder):
        if held != kind:
            raise InputError(f"--out {folder} holds {_named(held)}, not {_named(kind)}; {OTHERWISE}")
        return
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    own = {*(ENCODER if kind == PRETRAINING else FILES), NAME, NAME + ".partial", curves.NAME} - {"config.json"}
    if foreign := [name for name in names if name not in own]:
        more = f" and {len(foreign) - NAMED} more" if len(foreign) > NAMED else ""
        raise InputError(
            f"--out {folder} holds {', '.join(foreign[:NAMED])}{more}, not {_named(kind)}; "
            "give a new folder or an empty one"
        )
    if (run := run_in(folder)) and BY_CLASS.get(run, run) != kind:
        named = _named(BY_CLASS.get(run, run))
        raise InputError(f"--out {folder} holds an interrupted run of {named}, not {_named(kind)}; {OTHERWISE}")


def check_place(folder: Path) -> None:
    """Raises InputError where no folder can be there: a file is in the way, or nothing may be written."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"--out {folder}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--out {folder}: nothing can be written in {there}; give another folder")


def _named(kind: str) -> str:
    return "a " + ("pre-trained encoder" if kind == PRETRAINING else f"{kind} artifact")
