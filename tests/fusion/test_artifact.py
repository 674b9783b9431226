"""Artifacts: they come back as they were, and a broken one says what is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusion.artifact import ArtifactConfig, artifact_id, load_artifact, save_artifact
from fusion.spec import FeatureSpec
from interest.errors import ArtifactError


def test_an_artifact_comes_back_as_it_was_and_holds_no_pickle(artifact: Path, tmp_path: Path) -> None:
    loaded = load_artifact(artifact)
    record = ArtifactConfig(
        kind="din",
        model=loaded.config.model,
        training=loaded.config.training,
        split="global",
        versions=loaded.config.versions,
    )
    again = save_artifact(tmp_path / "copy", loaded.model, loaded.spec, loaded.statistics, record, loaded.metrics)
    assert again == loaded.id == artifact_id(artifact)
    assert sorted(path.suffix for path in artifact.iterdir()) == [".json"] * 3 + [".safetensors"] * 2
    assert FeatureSpec.load(artifact / "spec.json") == loaded.spec


@pytest.mark.parametrize("name", ["spec.json", "config.json", "model.safetensors", "statistics.safetensors"])
def test_a_broken_artifact_is_an_error_that_names_it(artifact: Path, name: str) -> None:
    (artifact / name).write_bytes((artifact / name).read_bytes()[:-40])
    with pytest.raises(ArtifactError, match="din"):
        load_artifact(artifact)
    (artifact / name).unlink()
    with pytest.raises(ArtifactError, match=f"lacks {name}"):
        load_artifact(artifact)
