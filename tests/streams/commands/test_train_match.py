"""Match scalars as `interestream train` makes them: read by default, items' texts encoded where that is to be done."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, func, select

from fusion.encoders.sentence import encoder_id
from fusion.features.match.features import MatchSpec
from fusion.tables import item_vectors
from fusion.training.artifact import load_artifact
from interest.store.tables import items
from tests.support.command_line import output_of
from tests.support.ctr_world import fill, random_rows
from tests.support.tiny_encoder import save_encoder

QUICK = ("--epochs", 1, "--history", 10, "--min-history", 2, "--interest", "no")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache in the user's place."""
    monkeypatch.setenv("INTERESTREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INTERESTREAM_ITEMS_TEMPLATE", "{title}. {categories}")
    return tmp_path / "cache"


def trained(store: Engine, out: Path, *more: object) -> tuple[str, MatchSpec | None]:
    url = store.url.render_as_string(hide_password=False)
    said = output_of("train", "din", "--store", url, "--out", out, *QUICK, *more)
    return said.replace("\n", " "), load_artifact(out).spec.match


def encoded(store: Engine) -> int:
    with store.connect() as connection:
        return connection.scalar(select(func.count()).select_from(item_vectors)) or 0


def test_texts_are_encoded_before_they_are_read(store: Engine, tmp_path: Path, cache: Path) -> None:
    fill(store, random_rows(5, user_count=20), 20)
    said, match = trained(store, tmp_path / "before")
    assert "match: read, without items' texts, for no text encoder is here" in said
    assert match is not None
    assert (match.parts, match.encoder) == (("places", "support"), "")

    own = encoder_id(save_encoder(cache / "all-minilm-l6-v2"))
    said, match = trained(store, tmp_path / "after")
    assert f"match: read, with items' texts by {own}" in said
    assert match is not None
    assert (match.parts, match.encoder) == (("text", "places", "support"), own)
    held = encoded(store)
    assert held > 1

    key = select(item_vectors.c.key).limit(1).scalar_subquery()
    with store.begin() as connection:
        connection.execute(delete(item_vectors).where(item_vectors.c.key == key))
    trained(store, tmp_path / "again")
    assert encoded(store) == held


def test_vectors_by_another_encoder_are_read_and_what_lacks_one_is_told(
    store: Engine, tmp_path: Path, cache: Path
) -> None:
    fill(store, random_rows(5, user_count=20), 20)
    url = store.url.render_as_string(hide_password=False)
    own = save_encoder(tmp_path / "tiny")
    output_of("fuse", "--store", url, "--encoder", own)
    save_encoder(cache / "all-minilm-l6-v2", kind="distilbert")
    key = select(item_vectors.c.key).limit(1).scalar_subquery()
    with store.begin() as connection:
        connection.execute(delete(item_vectors).where(item_vectors.c.key == key))
    said, match = trained(store, tmp_path / "din")
    assert f"items' texts without a vector by {encoder_id(own)}: 1;" in said
    assert match is not None
    assert match.encoder == encoder_id(own)


def test_without_a_catalogue_places_alone_are_read(store: Engine, tmp_path: Path, cache: Path) -> None:
    save_encoder(cache / "all-minilm-l6-v2")
    fill(store, random_rows(5, user_count=20), 20)
    with store.begin() as connection:
        connection.execute(delete(items))
    said, match = trained(store, tmp_path / "din")
    assert "match: read, without items' texts, for the catalogue has none" in said
    assert match is not None
    assert match.parts == ("places", "support")
    said, match = trained(store, tmp_path / "off", "--match", "no", "--split", "user")
    assert "match: not read" in said
    assert match is None
    assert re.search(r"cold users auc +- +- +cold users rows +0 +0", said)  # split inside users there are none
