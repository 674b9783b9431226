"""`interestream nearest`: items by the product of vectors that anyone can multiply, and the files of these vectors."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, select

from fusion.encoders.item_text import ITEM_TEMPLATE
from fusion.serving.user_vectors import represent
from fusion.tables import representations
from fusion.training.artifact import load_artifact, save_artifact
from interest.errors import InputError
from streams.kafka.messages import RepresentationUpdate
from streams.resolve.centroids import CentroidPass
from streams.service.reads import representation
from tests.support.command_line import output_of, run
from tests.support.live_world import TextEncoder, artifact_of, close_partition, fit, world
from tests.support.small_models import DIN

USER = "u5"


@pytest.fixture
def folder(store: Engine, tmp_path: Path) -> Path:
    """An artifact with a common space, every user's partitions closed and represented by it."""
    log = world(store)
    spec, space = fit(log, store)
    made = artifact_of(log, spec, msgspec.structs.replace(DIN, interest=True), space)
    save_artifact(tmp_path / "din", made.model, spec, made.statistics, made.config, {}, space=space)
    close_partition(store, USER, 1)
    represent(store, load_artifact(tmp_path / "din"))
    return tmp_path / "din"


def test_a_published_vector_times_the_exported_items_finds_what_the_command_shows(
    store: Engine, folder: Path, tmp_path: Path
) -> None:
    where = ("--store", store.url.render_as_string(hide_password=False))
    told = output_of("nearest", folder, *where, "--export", tmp_path / "items.parquet")
    shown = output_of("nearest", folder, *where, "--user", USER, "--seen", "--top", 10)
    table = pq.read_table(tmp_path / "items.parquet")
    items, vectors = np.array(table["item_id"]), np.stack(table["vector"].to_numpy())
    assert f"{len(items)} items' vectors, {vectors.shape[1]} wide" in told
    assert load_artifact(folder).id in told
    with store.connect() as connection:
        columns = (representations.c[name] for name in ("user_id", "index", "artifact", "vector", "common"))
        query = select(*columns).where(representations.c.user_id == USER).order_by(representations.c.index.desc())
        row = connection.execute(query).mappings().first()
    assert row is not None
    update = RepresentationUpdate(**row)
    products = vectors @ update.common_floats()
    nearest = np.argsort(-products, kind="stable")[:10]
    lines = [line.split("  ") for line in shown.splitlines()]
    assert [line[1] for line in lines] == items[nearest].tolist()
    np.testing.assert_allclose([float(line[0]) for line in lines], products[nearest], atol=1e-3)


def test_the_service_shows_the_vector_in_that_space_and_the_partition_s_centroids(store: Engine, folder: Path) -> None:
    made = CentroidPass(store, TextEncoder.id, ITEM_TEMPLATE)
    with store.connect() as connection:
        without = representation(connection, USER, load_artifact(folder).id)
    assert (without.encoder, without.liked, without.disliked) == ("", None, None)
    while made.step():
        pass
    with store.connect() as connection:
        shown = representation(connection, USER, load_artifact(folder).id)
    assert shown.common
    assert len(shown.common) == 30
    assert shown.encoder == TextEncoder.id
    assert shown.liked != shown.disliked
    assert len(shown.liked or shown.disliked or ()) == len(TextEncoder()(["any"])[0])


def test_either_a_user_or_a_file(store: Engine, folder: Path, tmp_path: Path) -> None:
    where = ("--store", store.url.render_as_string(hide_password=False))
    for more in ((), ("--user", USER, "--export", tmp_path / "a.parquet")):
        with pytest.raises(InputError, match="give one of these"):
            output_of("nearest", folder, *where, *more, catch_exceptions=False)
    assert run("nearest", folder, *where, "--export", tmp_path / "no folder" / "a.parquet").exit_code
    assert not list(tmp_path.glob("*.partial"))
