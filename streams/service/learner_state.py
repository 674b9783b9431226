"""What the process that writes texts says of itself to the workers: one small file, replaced whole."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec

LEARNER_STATE = "SERVE_LEARNER_STATE"  # the file, handed to the processes by the environment


class LearnerState(msgspec.Struct, kw_only=True):
    """As of `at`, epoch seconds. Counts are since the process began."""

    model: str = ""  # by which texts are written
    prompt_version: str = ""
    waiting: int = 0  # closed partitions without a text, when last looked
    written: int = 0  # partitions whose texts were written
    represented: int = 0  # partitions whose texts were encoded, and their user's representation brought up to date
    standing_by: bool = False  # another process writes this store's texts; this one takes over when that ends
    trouble: str | None = None  # why nothing is written now
    notes: tuple[str, ...] = ()  # what whoever runs it should know
    at: float = 0.0


class StateFile:
    """The writing side."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.state = read_state(path) or LearnerState()

    def write(self) -> None:
        """Replace the file; a folder that is gone is that of a service that has ended."""
        self.state.at = time.time()
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            beside.write_bytes(msgspec.json.encode(self.state))
            beside.replace(self._path)


def read_state(path: Path) -> LearnerState | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=LearnerState)
    except (OSError, msgspec.MsgspecError):
        return None


def learner_state() -> LearnerState | None:
    """That of this service's learner; None where it has none, or none that has said anything yet."""
    path = os.environ.get(LEARNER_STATE)
    return read_state(Path(path)) if path else None
