"""What every test may use: a fresh store, and the fetched sample and models (`make test` fetches them first)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from sqlalchemy import Engine

from streams import settings
from streams.store import open_store

hypothesis_settings.register_profile("shared-cores", deadline=None)  # a slow machine is not a failing test
hypothesis_settings.load_profile("shared-cores")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Engine]:
    """A fresh SQLite store in a file."""
    engine = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield engine
    engine.dispose()


def _fetched(folder: Path) -> Path:
    if not folder.exists():
        pytest.fail(f"{folder.name} is not in the cache; run `interestream fetch` (make test does)")
    return folder


@pytest.fixture(scope="session")
def sample_log() -> Path:
    """The folder of ML-100K."""
    return _fetched(settings.sample_log())


@pytest.fixture(scope="session")
def llm_folder() -> Path:
    """SmolLM2-135M-Instruct."""
    return _fetched(settings.default_llm())


@pytest.fixture(scope="session")
def encoder_folder() -> Path:
    """all-MiniLM-L6-v2."""
    return _fetched(settings.default_encoder())
