"""A store for a stage, a tiny LLM, and what the embedded commands leave of the fusion world's interests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from fusion.encoders.sentence import encoder_id, open_encoder
from fusion.encoders.split_llm import LowerLayers, open_lower_layers, recipe_of
from fusion.interests.pooled_rows import VectorSource
from streams.settings.schema import KafkaSettings
from streams.store.engine import open_store
from tests.support.fusion_world import EVERY, fuse_all, learn
from tests.support.interest_rig import fill, make_topics
from tests.support.tiny_llm import save_llm


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
    fuse_all(opened, open_encoder(encoder_folder, device="cpu"))
    return opened


@pytest.fixture
def view(encoder_folder: Path) -> VectorSource:
    return VectorSource(encoder_id(encoder_folder), "json-1")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with random weights."""
    return save_llm(tmp_path_factory.mktemp("llm") / "tiny")


@pytest.fixture(scope="module")
def lower(llm: Path) -> LowerLayers:
    return open_lower_layers(llm, recipe_of(llm, 2))


@pytest.fixture
def topics(kafka: KafkaSettings) -> KafkaSettings:
    return make_topics(kafka)


@pytest.fixture
def filled(store: Engine, sample_log: Path, tmp_path: Path) -> Engine:
    """Partitions of five users of ML-100K in a SQLite store."""
    fill(store, sample_log, tmp_path, users=5)
    return store
