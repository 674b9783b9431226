"""A small store and an artifact for the tests of the service."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fusion.training.artifact import Artifact
from streams.settings.schema import ServeSettings, Settings
from tests.support.service_rig import small_service


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact]:
    """A store, and an SRP4CTR's artifact with match scalars in a folder."""
    folder = tmp_path_factory.mktemp("service")
    return folder, small_service(f"sqlite:///{folder / 'store.db'}", folder / "model")


@pytest.fixture
def settings(template: tuple[Path, Artifact], tmp_path: Path) -> Settings:
    shutil.copy(template[0] / "store.db", tmp_path / "store.db")
    serve = ServeSettings(artifact=str(template[0] / "model"))
    return Settings(store=f"sqlite:///{tmp_path / 'store.db'}", serve=serve)
