"""A store for a stage, and what the embedded commands leave of the fusion world's interests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fusion_world import EVERY, learn
from sqlalchemy import Engine

from fusion.encoder import encoder_id, open_encoder
from fusion.fuse import fuse
from fusion.pooled import View
from streams.store import open_store


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    opened = open_store(url)
    yield opened
    opened.dispose()


@pytest.fixture
def embedded(tmp_path: Path, encoder_folder: Path) -> Engine:
    """What `learn` and `fuse` leave of EVERY."""
    opened = open_store(f"sqlite:///{tmp_path / 'embedded.db'}")
    learn(opened, EVERY)
    fuse(opened, open_encoder(encoder_folder, device="cpu"))
    return opened


@pytest.fixture
def view(encoder_folder: Path) -> View:
    return View(encoder_id(encoder_folder), "json-1")
