"""Pages of pairs keep the order given; one user's items come best first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from fusion.serving.requests import rank_items, score_pairs
from fusion.serving.score import Scorer, score
from fusion.training.artifact import load_artifact
from interest.store.sql import insert_new, item_row, user_row
from interest.store.tables import items, users
from interest.types import Item, User


def test_pages_change_neither_the_order_nor_a_score(
    store: Engine, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusion.serving.requests.PAGE", 4)
    loaded = load_artifact(artifact)
    pairs = [(f"u{user}", f"i{item}") for item in (3, 5, 9) for user in (0, 4, 2)] + [("u4", "i3")]
    advanced: list[int] = []
    with store.connect() as connection:
        pages = list(score_pairs(Scorer(loaded), connection, pairs, 1e9, advance=advanced.append))
        whole = score(connection, loaded, pairs, 1e9)
    scored = [one for page in pages for one in page]
    assert [(one.user_id, one.item_id) for one in scored] == pairs
    np.testing.assert_allclose([one.score for one in scored], whole, atol=1e-6)
    assert advanced == [4, 4, 2]


def test_one_users_items_are_ranked(store: Engine, artifact: Path) -> None:
    items = [f"i{item}" for item in range(12)]
    loaded = load_artifact(artifact)
    with store.connect() as connection:
        ranked = rank_items(Scorer(loaded), connection, "u3", items, 1e9)
        scores = dict(zip(items, score(connection, loaded, [("u3", item) for item in items], 1e9), strict=True))
        assert rank_items(Scorer(loaded), connection, "u3", [], 1e9) == []
    assert [one.item_id for one in ranked] == sorted(items, key=lambda item: -scores[item])
    assert {one.user_id for one in ranked} == {"u3"}


def test_who_and_what_nothing_is_known_of_is_marked(store: Engine, artifact: Path) -> None:
    """u1 has no profile, i9 no catalogue entry; their behaviours make them known. A profile alone does too."""
    loaded = load_artifact(artifact)
    with store.begin() as connection:
        insert_new(connection, users, [user_row(User(user_id="quiet", attributes={"gender": "F"}))])
        insert_new(connection, items, [item_row(Item(item_id="new", title="New", categories=("Drama",)))])
    pairs = [("u1", "i9"), ("nobody", "i1"), ("u1", "nothing"), ("nobody", "nothing"), ("quiet", "new")]
    with store.connect() as connection:
        (page,) = score_pairs(Scorer(loaded), connection, pairs, 1e9)
        (early,) = score_pairs(Scorer(loaded, as_of_request=True), connection, pairs[:3], 1.0)
    marks = [(one.unknown_user, one.unknown_item) for one in page]
    assert marks == [(False, False), (True, False), (False, True), (True, True), (False, False)]
    assert all(0 < one.score < 1 for one in page)
    assert [one.unknown_user for one in early] == [True, True, True]  # as of 1970, u1 had done nothing yet
