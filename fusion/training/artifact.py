"""A trained model as one directory: weights, what made them, what they read, what they scored. No pickle.

model.safetensors     the weights
statistics.safetensors  item statistics at the end of training, by place in spec.items
space.safetensors     the common space of items, where the model has match scalars
config.json           model kind and its sizes, training settings, versions
spec.json             the FeatureSpec
metrics.json          the metrics of validation and test
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusion.features.counts import ItemStatistics
from fusion.features.match.space import Space
from fusion.features.spec import FeatureSpec
from fusion.models.protocol import CtrModel, ModelConfig, Network
from fusion.models.registry import KINDS, build
from fusion.training.train import TrainConfig
from interest.errors import ArtifactError

PRETRAINING = "fgbert"  # what the folder of a pre-training says that it is
FILES = ("config.json", "metrics.json", "model.safetensors", "spec.json", "statistics.safetensors")
SPACE = "space.safetensors"
Metrics = dict[str, dict[str, float]]  # part ("valid", "test") -> metric -> value


M = TypeVar("M", bound=ModelConfig)


class ArtifactConfig(msgspec.Struct, Generic[M], frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: str  # the name of one of fusion/models/registry.py's
    model: M
    training: TrainConfig
    split: str
    versions: dict[str, str]
    statistics_at: float | msgspec.UnsetType = msgspec.UNSET  # event time that item statistics reach; unset in old ones
    layout: int = 1


@dataclass(frozen=True, slots=True)
class Artifact:
    """A loaded model, ready to score; `id` is the hash of what the directory holds."""

    id: str
    model: CtrModel
    spec: FeatureSpec
    statistics: ItemStatistics
    config: ArtifactConfig[Any]
    metrics: Metrics
    space: Space | None = None  # of a spec with match scalars


def versions() -> dict[str, str]:
    return {
        "interestream": version("interestream"),
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "torch": str(torch.__version__),
    }


def save_artifact(
    folder: Path,
    model: Network,
    spec: FeatureSpec,
    statistics: ItemStatistics,
    config: ArtifactConfig[M],
    metrics: Metrics,
    *,
    space: Space | None = None,
) -> str:
    """Write the directory and return the artifact's id. Each file is replaced atomically, config.json last.

    1. Remove config.json: a reader in between finds no artifact rather than a mixture.
    2. Write every other file beside its place, flushed, and move it there.
    3. Write config.json, which completes the artifact.
    """
    scratch = begin(folder)
    save_weights(model, scratch / "model.safetensors")
    sums = {"total": statistics.total, "recent": statistics.recent, "first_at": statistics.first_at}
    save_file({name: torch.from_numpy(array) for name, array in sums.items()}, scratch / "statistics.safetensors")
    spec.save(scratch / "spec.json")
    (scratch / "metrics.json").write_bytes(msgspec.json.format(msgspec.json.encode(metrics), indent=1))
    (scratch / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=1))
    if space is not None:
        save_file(
            {field.name: torch.from_numpy(getattr(space, field.name)) for field in fields(space)}, scratch / SPACE
        )
    complete(folder, FILES if space is None else (*FILES, SPACE), stale=() if space is not None else (SPACE,))
    return artifact_id(folder)


def begin(folder: Path) -> Path:
    """An empty scratch folder, beside the places its files are to be moved to by `complete`."""
    scratch = folder / ".partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch


def complete(folder: Path, names: Sequence[str], stale: Sequence[str] = ()) -> None:
    """Move the scratch folder's files to their places; the numbers are those of `save_artifact`.

    stale: files that another run may have left and this one has not.
    """
    for name in ("config.json", *stale):
        (folder / name).unlink(missing_ok=True)  # 1
    for name in sorted(names, key=lambda name: name == "config.json"):  # 2, 3
        with (folder / ".partial" / name).open("rb") as file:
            os.fsync(file.fileno())
        (folder / ".partial" / name).replace(folder / name)
    (folder / ".partial").rmdir()


def save_weights(model: Network, path: Path) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, path)


def artifact_id(folder: Path, names: Sequence[str] = FILES) -> str:
    """The first 16 hex digits of the SHA-256 over the names and bytes of what decides a score."""
    digest = hashlib.sha256()
    for name in (*names, SPACE):
        if name == "metrics.json" or (name == SPACE and not (folder / name).exists()):
            continue
        data = (folder / name).read_bytes()
        digest.update(f"{name} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()[:16]


@contextmanager
def whole(file: Path, remedy: str = "train again into a new folder") -> Iterator[None]:
    """Raises ArtifactError, naming the file and the remedy, for what reading a broken one comes to."""
    try:
        yield
    except (msgspec.MsgspecError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ArtifactError(f"{file} is broken ({reason}); {remedy}") from None


class _Kind(msgspec.Struct):
    kind: str


def kind_in(folder: Path) -> str | None:
    """What a folder says that it holds; None where it says nothing that can be read."""
    try:
        return msgspec.json.decode((folder / "config.json").read_bytes(), type=_Kind).kind
    except (OSError, msgspec.MsgspecError):
        return None


def read_config(data: bytes) -> ArtifactConfig[Any]:
    """Decoded as what its kind says; a kind of another version is a msgspec.ValidationError."""
    kind = msgspec.json.decode(data, type=_Kind).kind
    if kind not in KINDS:
        raise msgspec.ValidationError(f"a model of the kind {kind!r} is not known here")
    generic: Any = ArtifactConfig
    config: ArtifactConfig[Any] = msgspec.json.decode(data, type=generic[KINDS[kind].config])
    return config


def _take(model: Network, held: dict[str, Tensor], folder: Path, kind: str) -> None:
    """Give the model its weights. Raises ArtifactError where they are those of another version's model."""
    ours, theirs = ({name: value.shape for name, value in own.items()} for own in (model.state_dict(), held))
    apart = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    if apart:
        raise ArtifactError(
            f"{folder} is a {kind} model of another version: its weights do not fit this version's ({len(apart)} of "
            f"them, {apart[0]} first); train again into a new folder, or score it with the version that wrote it"
        )
    model.load_state_dict(held)


def load_artifact(folder: Path, llm: Path | None = None) -> Artifact:
    """Raises ArtifactError, naming the file, where something is missing, broken or of another version.

    llm: where the LLM is that a BAHE model stands on, if it is not where it was in training.
    """
    if kind_in(folder) == PRETRAINING:
        raise ArtifactError(
            f"{folder} is a pre-training; train on it into another folder: "
            f"interestream train srp4ctr --pretrained {folder} --out ANOTHER"
        )
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ArtifactError(
            f"{folder} is not a complete artifact, it lacks {', '.join(missing)}; run `interestream train` into it"
        )
    spec = FeatureSpec.load(folder / "spec.json")
    with whole(folder / "config.json"):
        config = read_config((folder / "config.json").read_bytes())
        model = build(spec, config.model)
    with whole(folder / "metrics.json"):
        metrics = msgspec.json.decode((folder / "metrics.json").read_bytes(), type=dict[str, dict[str, float | None]])
    with whole(folder / "model.safetensors"):
        _take(model, load_file(folder / "model.safetensors"), folder, config.kind)
    with whole(folder / "statistics.safetensors"):
        sums = {name: value.numpy() for name, value in load_file(folder / "statistics.safetensors").items()}
        statistics = ItemStatistics(sums["total"], sums["recent"], sums["first_at"])
    if {len(statistics.total), len(statistics.recent), len(statistics.first_at)} != {len(spec.items)}:
        raise ArtifactError(f"{folder}: statistics.safetensors and spec.json do not belong together; train again")
    space = None
    if spec.match is not None:
        space = _space(folder / SPACE, spec)
    held = {part: {k: float("nan") if v is None else v for k, v in own.items()} for part, own in metrics.items()}
    config = msgspec.structs.replace(config, model=model.load_outside(llm))
    model.eval()
    return Artifact(artifact_id(folder), model, spec, statistics, config, held, space)


def _space(file: Path, spec: FeatureSpec) -> Space:
    if not file.is_file():
        raise ArtifactError(
            f"{file.parent} is not a complete artifact, it lacks {SPACE}; train again into a new folder"
        )
    with whole(file):
        space = Space(**{name: array.numpy() for name, array in load_file(file).items()})
    if len(space.place) != spec.trained_items:
        raise ArtifactError(f"{file.parent}: {SPACE} and spec.json do not belong together; train again")
    return space
