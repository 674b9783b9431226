"""How a model came to be and how far its probabilities hold, beside its artifact: for people, not for scoring.

curves.json is not part of the artifact's identity: a folder without it, or with another artifact's, scores as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from fusion.features.log import Array
from fusion.training.checkpoint import Epoch

NAME = "curves.json"
BINS = 20  # as many as the calibration error is made of


class Bin(msgspec.Struct, frozen=True):
    """Samples of about the same score."""

    predicted: float  # mean score
    observed: float  # share of positives
    rows: int


class Curves(msgspec.Struct, frozen=True, kw_only=True):
    artifact: str  # whose they are
    epochs: Sequence[Epoch]
    calibration: Mapping[str, Sequence[Bin]]  # by part: valid, test


def calibration_bins(labels: Array, scores: Array, bins: int = BINS) -> list[Bin]:
    """Equally filled bins of (n,) samples by score: a reliability diagram's points (DeGroot and Fienberg 1983)."""
    order = np.argsort(scores, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [Bin(float(scores[part].mean()), float(labels[part].mean()), len(part)) for part in parts]


def save_curves(folder: Path, curves: Curves) -> None:
    """Write or replace them."""
    scratch = folder / f".{NAME}"
    scratch.write_bytes(msgspec.json.format(msgspec.json.encode(curves), indent=1))
    scratch.replace(folder / NAME)


def read_curves(folder: Path, artifact: str) -> Curves | None:
    """The curves of this artifact; none where it was trained before they were kept, or elsewhere."""
    try:
        found = msgspec.json.decode((folder / NAME).read_bytes(), type=Curves)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if found.artifact == artifact else None
