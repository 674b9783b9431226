"""What an adaptation leaves in its folder: the model as transformers saves it, and a record of what made it.

While a run is under way the folder holds its plan instead, by which the same command goes on and another is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from fusion.adaptation.general import NAME as GENERAL
from fusion.adaptation.teacher import NAME as TEACHER
from fusion.training.checkpoint import NAME as CHECKPOINT
from fusion.training.checkpoint import remove_checkpoint
from interest.errors import ArtifactError, InputError

RECORD, PLAN = "adaptation.json", "plan.json"
VERSION = 1
NAMED = 3  # of foreign files, in the error
S = TypeVar("S", bound=msgspec.Struct)
OTHERWISE = "give another folder, or remove what is there first"


class LearntFrom(msgspec.Struct, frozen=True, kw_only=True):
    """What every record says: of what, and of whose behaviours, it was made. It names no user."""

    id: str  # also in the store, by which `forget` knows the users it learnt from
    base: str  # the base: an encoder's id, or the name of a model's folder
    store: str  # its URL, without a password
    cut: float  # event time: every behaviour it learnt from is older
    users: int  # whose behaviours it learnt from
    users_digest: str  # SHA-256 of their ids, sorted
    data: str = ""  # digest of all that was learnt from; empty: made before that was kept


class Record(LearntFrom, frozen=True, kw_only=True):
    """`adaptation.json`."""

    base_hash: str  # SHA-256 of the base's weights
    items: int
    held_items: int
    held_users: int
    seed: int
    rank: int  # of LoRA, merged; 0: all weights were trained
    rate: float  # peak
    steps: int
    context: int
    mix: dict[str, float]  # as asked for
    tokens: dict[str, int]  # as learnt, by kind
    join_users: bool
    before: dict[str, float]  # perplexity of held-out documents by kind, base and adapted
    after: dict[str, float]
    teacher: str = ""  # the model whose summaries of items were learnt
    taught: int = 0  # summaries learnt
    dropped: int = 0  # that did not lead back to their item
    version: int = VERSION


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`plan.json`: what a run under way must keep to."""

    request: str  # hash of the settings and the base model
    cut: float
    tokens: int
    before: dict[str, float] = {}
    data: str = ""  # digest of what is learnt from


def request_of(settings: msgspec.Struct, base_hash: str, teacher: str = "") -> str:
    """Twelve hex digits: settings, base model and teacher, if there is one."""
    return hashlib.sha256(msgspec.json.encode(settings) + (base_hash + teacher).encode()).hexdigest()[:12]


def hash_weights(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights, file by file."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def read_record(folder: Path) -> Record | None:
    """The record of a finished adaptation; None where there is none. Raises ArtifactError for a broken one."""
    return read_struct(folder / RECORD, Record)


def read_plan(folder: Path) -> Plan | None:
    return read_struct(folder / PLAN, Plan)


def write_plan(folder: Path, plan: Plan) -> None:
    write_struct(folder / PLAN, plan)


def write_record(folder: Path, record: Record) -> None:
    """The last thing that a run writes: what it worked with goes."""
    write_struct(folder / RECORD, record)
    remove_checkpoint(folder)
    for name in (PLAN, GENERAL, TEACHER):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()


def check_data(folder: Path, done: LearntFrom | None, begun_on: str, data: str) -> None:
    """Raises InputError where what the folder holds was made of other rows than those of digest `data`.

    done: the record of a finished run. begun_on: the digest of a run under way; empty where there is none.
    """
    if done is not None and done.data not in ("", data):
        cut = f"{datetime.fromtimestamp(done.cut, UTC):%Y-%m-%d %H:%M:%S} UTC"
        raise InputError(
            f"--out {folder} was made of other data (of {done.store or 'another store'}, behaviours before {cut}): the "
            "store or the catalogue is another, has grown since, or users were forgotten; give another folder to make "
            "it anew"
        )
    if done is None and begun_on not in ("", data):
        raise InputError(
            f"--out {folder} holds a run that was begun on other data: another store or catalogue, or these as they "
            f"were before; {OTHERWISE}"
        )


def check_folder(folder: Path, request: str) -> None:
    """Raises InputError where the folder is neither new, nor empty, nor of a run of this request."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"--out {folder} is a file; give a folder")
    for held in (read_record(folder), read_plan(folder)):
        if held is None:
            continue
        if (held.id if isinstance(held, Record) else held.request) == request:
            return
        raise InputError(f"--out {folder} holds an adaptation by other settings or of another base model; {OTHERWISE}")
    own = {CHECKPOINT, CHECKPOINT + ".partial", GENERAL, TEACHER}
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name not in own)
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise InputError(f"--out {folder} holds {', '.join(names[:NAMED])}{more}, not an adaptation; {OTHERWISE}")


def read_struct(path: Path, kind: type[S]) -> S | None:
    """What the file holds; None where there is no file. Raises ArtifactError for a broken one."""
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.MsgspecError as error:
        raise ArtifactError(f"{path} cannot be read ({error}); {OTHERWISE}") from None


def write_struct(path: Path, record: msgspec.Struct) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
    partial.replace(path)
