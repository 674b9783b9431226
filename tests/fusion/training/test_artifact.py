"""Artifacts: they come back as they were, and a broken one says what is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusion.features.spec import FeatureSpec
from fusion.training.artifact import FILES, ArtifactConfig, artifact_id, load_artifact, save_artifact
from interest.errors import ArtifactError


def test_an_artifact_comes_back_as_it_was_and_holds_no_pickle(artifact: Path, tmp_path: Path) -> None:
    loaded = load_artifact(artifact)
    record = ArtifactConfig(
        kind="din",
        model=loaded.config.model,
        training=loaded.config.training,
        split="global",
        versions=loaded.config.versions,
        statistics_at=loaded.config.statistics_at,
    )
    again = save_artifact(tmp_path / "copy", loaded.model, loaded.spec, loaded.statistics, record, loaded.metrics)
    assert again == loaded.id == artifact_id(artifact)
    assert sorted(path.suffix for path in artifact.iterdir()) == [".json"] * 4 + [".safetensors"] * 2
    assert FeatureSpec.load(artifact / "spec.json") == loaded.spec


def test_a_broken_artifact_is_an_error_that_names_the_file(artifact: Path) -> None:
    """Whether it was cut short, emptied, holds something else, or is not there."""
    for name in FILES:
        own = (artifact / name).read_bytes()
        for broken in (own[:-40], own[:5], b"", b"\xff" * 200, b"[1]", b"{}"):
            (artifact / name).write_bytes(broken)
            if (name, broken) == ("metrics.json", b"{}"):
                continue  # metrics of no part decide no score
            with pytest.raises(ArtifactError, match=f"din/{name}.*train again into a new folder"):
                load_artifact(artifact)
        (artifact / name).unlink()
        with pytest.raises(ArtifactError, match=f"lacks {name}"):
            load_artifact(artifact)
        (artifact / name).write_bytes(own)
    short = {name: value[:-1] if name == "recent" else value for name, value in sums_of(artifact).items()}
    save_file(short, artifact / "statistics.safetensors")
    with pytest.raises(ArtifactError, match="do not belong together"):
        load_artifact(artifact)
    save_file({"total": short["total"]}, artifact / "statistics.safetensors")
    with pytest.raises(ArtifactError, match=r"statistics.safetensors is broken .*recent"):
        load_artifact(artifact)


def sums_of(artifact: Path) -> dict[str, Tensor]:
    return load_file(artifact / "statistics.safetensors")
