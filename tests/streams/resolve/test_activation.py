"""Activating an artifact: what is checked, what is shown, and what is refused with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from fusion.interests.pooled_rows import VectorSource
from fusion.tables import vectors
from interest.errors import ArtifactError, InputError
from interest.store.sql import insert_new, writing
from streams.cli import app
from streams.resolve.activation import POOLED, Activation, activate, activate_pooled, open_activated, read_activations
from streams.store.engine import open_store
from tests.support.fusion_world import make_artifact

VIEW = VectorSource("small@1", "json-1")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    opened = open_store(url)
    yield opened
    opened.dispose()


def hold(engine: Engine, view: VectorSource) -> None:
    """Vectors of one user."""
    blob = np.zeros(4, "<f2").tobytes()
    key = {"user_id": "ann", "generation": 0, "index": 0, "prompt_version": view.prompt_version}
    with writing(engine) as connection:
        insert_new(connection, vectors, [key | {"encoder": view.encoder, "summary": blob, "shift": None}])


def test_the_newest_activation_is_in_force_and_the_same_one_twice_is_one(engine: Engine, tmp_path: Path) -> None:
    hold(engine, VIEW)
    first, second = (make_artifact(tmp_path / name, VIEW, seed=seed, width=4) for seed, name in enumerate("ab"))
    assert activate_pooled(engine) == (POOLED, False)
    assert activate(engine, tmp_path / "a") == (Activation(number=1, artifact=first, folder=str(tmp_path / "a")), True)
    assert activate(engine, tmp_path / "a")[1] is False
    assert activate(engine, tmp_path / "b")[0].number == 2
    assert activate_pooled(engine) == (Activation(number=3), True)
    assert [one.artifact for one in read_activations(engine)] == ["", second, first]


def test_what_cannot_be_activated_is_refused_and_nothing_changes(engine: Engine, tmp_path: Path) -> None:
    make_artifact(tmp_path / "one", VIEW, width=4)
    with pytest.raises(ArtifactError, match="it has: no vectors at all"):
        activate(engine, tmp_path / "one")
    hold(engine, VectorSource("small@1", "json-2"))
    with pytest.raises(ArtifactError, match=r"prompt version json-1 encoded by small@1.*it has: json-2 by small@1"):
        activate(engine, tmp_path / "one")
    make_artifact(tmp_path / "plain", VIEW, interest=False)
    with pytest.raises(ArtifactError, match="trained without interests"):
        activate(engine, tmp_path / "plain")
    with pytest.raises(ArtifactError, match="not a complete artifact"):
        activate(engine, tmp_path / "nowhere")
    assert read_activations(engine) == []


def test_a_worker_opens_what_was_activated_and_nothing_else(engine: Engine, tmp_path: Path) -> None:
    hold(engine, VIEW)
    made = make_artifact(tmp_path / "one", VIEW, width=4)
    activation, _ = activate(engine, tmp_path / "one")
    opened = open_activated(activation, VIEW.encoder)
    assert opened is not None
    assert opened.id == made
    assert open_activated(POOLED, VIEW.encoder) is None
    with pytest.raises(ArtifactError, match="INTERESTREAM_FUSION_ENCODER"):
        open_activated(activation, "other@2")
    make_artifact(tmp_path / "one", VIEW, seed=5, width=4)  # trained again in place
    with pytest.raises(ArtifactError, match=f"but {made} was activated"):
        open_activated(activation, VIEW.encoder)
    (tmp_path / "one" / "spec.json").unlink()
    with pytest.raises(ArtifactError, match="on every machine with a fusion stage"):
        open_activated(activation, VIEW.encoder)


def test_the_command(store: Engine, tmp_path: Path) -> None:
    hold(store, VIEW)
    made = make_artifact(tmp_path / "one", VIEW, width=4)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["activate", "--store", str(store.url), *arguments], catch_exceptions=False)
        assert result.exit_code == 0
        return result.stdout

    assert "pooled vectors" in run("--show")
    assert made in run(str(tmp_path / "one"))
    shown = msgspec.json.decode(run("--show", "--json"), type=Activation)
    assert shown == Activation(number=1, artifact=made, folder=str(tmp_path / "one"))
    assert "already in force" in run(str(tmp_path / "one"))
    assert "pooled vectors, nothing trained (activation 2)" in run("--pooled")
    with pytest.raises(InputError, match="exactly one of these"):
        run("--pooled", "--show")
