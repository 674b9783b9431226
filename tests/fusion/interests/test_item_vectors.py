"""Vectors of items' texts: each text is encoded once, again where the catalogue changes, and goes when unused."""

from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy import Engine

from fusion.encoders.item_text import ITEM_TEMPLATE, catalogue_text, check_item_template
from fusion.features.match.features import MatchSpec
from fusion.features.match.item_vectors import encoders_of_items, read_item_vectors
from fusion.interests.item_vectors import collect_item_garbage, encode_items, texts_without_vectors
from interest.errors import InputError
from interest.store.sql import insert_new, item_row, read_items, upsert
from interest.store.tables import items
from interest.types import Item
from tests.support.hashed_encoder import HashedEncoder

HEAT = Item(item_id="1", title="Heat (1995)", categories=("Action", "Crime"), attributes={"director": "Michael Mann"})
TWIN = Item(item_id="2", title="Heat (1995)", categories=("Action", "Crime"), attributes={"director": "Michael Mann"})
ALIEN = Item(item_id="3", title="Alien (1979)", attributes={"release_year": "1979", "plot": " "})
SPEC = MatchSpec(parts=("text",), encoder="hashed", template=ITEM_TEMPLATE)


@pytest.fixture
def catalogue(store: Engine) -> Engine:
    with store.begin() as connection:
        insert_new(connection, items, [item_row(item) for item in (HEAT, TWIN, ALIEN, Item(item_id="4"))])
    return store


def encode(engine: Engine, encoder: HashedEncoder) -> int:
    with engine.connect() as connection:
        texts = texts_without_vectors(connection, encoder.id, ITEM_TEMPLATE)
    return encode_items(engine, encoder, texts)


def test_an_item_reads_as_its_title_categories_and_text_attributes() -> None:
    assert catalogue_text(ITEM_TEMPLATE, HEAT) == "Heat (1995), Action, Crime; director Michael Mann"
    assert catalogue_text(ITEM_TEMPLATE, ALIEN) == "Alien (1979)"
    assert catalogue_text(ITEM_TEMPLATE, Item(item_id="4")) == catalogue_text(ITEM_TEMPLATE, None) == ""
    for wrong in ("{director}", "no field", "{title:>9}", "{title"):
        with pytest.raises(InputError, match="item template"):
            check_item_template(wrong)


def test_equal_texts_are_encoded_once_and_a_changed_one_again(catalogue: Engine) -> None:
    encoder = HashedEncoder()
    assert encode(catalogue, encoder) == 2
    assert encode(catalogue, encoder) == 0
    with catalogue.begin() as connection:
        read = read_item_vectors(connection, SPEC, ["3", "1", "2", "4", "nobody"], read_items(connection))
        assert encoders_of_items(connection) == ["hashed"]
        upsert(connection, items, [item_row(Item(item_id="3", title="Aliens (1986)"))])
    assert read is not None
    np.testing.assert_array_equal(read[1], read[2])
    assert read[:3].any(axis=1).all()
    assert not read[3:].any()
    with catalogue.connect() as connection:
        book = read_items(connection)
        changed = read_item_vectors(connection, SPEC, ["3"], book)
        assert changed is not None
        assert not changed.any()
    assert encode(catalogue, encoder) == 1
    assert encoder.seen[-1] == "Aliens (1986)"
    assert collect_item_garbage(catalogue, ITEM_TEMPLATE) == 1
    assert collect_item_garbage(catalogue, ITEM_TEMPLATE) == 0
    with catalogue.connect() as connection:
        after = read_item_vectors(connection, SPEC, ["3", "1"], book)
    assert after is not None
    assert after.any(axis=1).all()
